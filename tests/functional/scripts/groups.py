"""Process groups and sessions: signals and waits by group."""

import functools
import os
import signal
import subprocess

print = functools.partial(print, flush=True)  # noqa: A001 - children must not print what was waiting here

with subprocess.Popen(["sh", "-c", "sleep 60 & echo; sleep 60"], stdout=subprocess.PIPE, start_new_session=True) as shell:
    shell.stdout.readline()
    print(os.getpgid(shell.pid) == shell.pid, os.getsid(shell.pid) == shell.pid, os.getpgrp() == os.getpgid(0))
    os.killpg(shell.pid, signal.SIGTERM)
print(shell.returncode)

pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os._exit(3)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print(os.waitpid(-pid, 0)[1] >> 8)

pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    pids.append(pid)
    os.setpgid(pid, pids[0])
other = os.fork()
if other == 0:
    signal.pause()
    os._exit(0)
os.killpg(pids[0], signal.SIGKILL)
print({os.waitpid(-pids[0], 0)[1] for _ in pids})
print(os.waitpid(-1, os.WNOHANG))
os.kill(other, signal.SIGTERM)
print(os.waitpid(0, 0) == (other, signal.SIGTERM))
for call in (lambda: os.waitpid(-pids[0], 0), lambda: os.killpg(pids[0], 0), lambda: os.getpgid(pids[0])):
    try:
        print(call())
    except OSError as error:
        print(error.errno)

pid = os.fork()
if pid == 0:
    os.setsid()
    print(os.getsid(0) == os.getpid() == os.getpgrp())
    try:
        os.setsid()
    except OSError as error:
        print(error.errno)
    os._exit(0)
os.wait()
