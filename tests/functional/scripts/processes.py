"""Programs started from a program: their streams, status, surroundings and signals."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PYTHON = [sys.executable, "-I", "-S", "-c"]


def said(code, **options):
    done = subprocess.run([*PYTHON, code], capture_output=True, text=True, check=False, timeout=60, **options)
    return done.returncode, done.stdout, done.stderr


print(said("print(6 * 7)"))
print(said("import sys; sys.stderr.write('late'); sys.exit(3)"))
print(said("import sys; print(sys.stdin.read()[::-1])", input="abc" * 50_000)[1][:6])
print(said("import os; print(os.environ['COLOUR'], os.getcwd(), 'PATH' in os.environ)", env={"COLOUR": "blue"}, cwd="/usr"))
print(said("import os; os.kill(os.getpid(), 9)")[0], said("import os; os.abort()")[0])
print(said("import os; print(os.getppid() == " + str(os.getpid()) + ", os.getpid() != os.getppid())"))

here, name = os.path.split(os.path.realpath(sys.executable))
for program, place in ((f"./{name}", here), (f"{os.path.basename(here)}/{name}", os.path.dirname(here))):
    print(subprocess.check_output([program, "-I", "-S", "-c", "import sys; print(sys.version)"], cwd=place))

# Descriptors: the ones passed, and no others.
reader, writer = os.pipe()
code = f"import os; os.write({writer}, b'through'); print(len(os.listdir('/proc/self/fd')) if os.path.exists('/proc/self/fd') else 0)"
print(said(code, pass_fds=[writer])[0], os.read(reader, 100))
print(said(f"import os; os.write({writer}, b'x')")[2].splitlines()[-1])
os.close(writer)
print(os.read(reader, 1))

# Files in /tmp are common; offsets of inherited files too.
with tempfile.NamedTemporaryFile() as file:
    file.write(b"one two")
    file.flush()
    file.seek(4)
    print(subprocess.check_output(["cat"], stdin=file), file.tell())
    script = Path(file.name + ".sh")
    script.write_text("#!/bin/sh -e\necho script $1\n")
    script.chmod(0o755)
    print(subprocess.check_output([str(script), "argument"]))
    script.chmod(0o644)
    try:
        subprocess.run([str(script)], check=False)
    except PermissionError as error:
        print(error.errno)
    script.unlink()

for missing in ("/nonexistent", "nonexistent", "/usr"):
    try:
        subprocess.run([missing], check=False)
    except OSError as error:
        print(type(error).__name__, error.filename)

# Waiting.
try:
    os.wait()
except ChildProcessError as error:
    print(error.errno)
sleeper = subprocess.Popen([*PYTHON, "import time; print('up', flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
print(sleeper.stdout.readline(), sleeper.poll(), os.waitpid(sleeper.pid, os.WNOHANG))
try:
    sleeper.wait(0.05)
except subprocess.TimeoutExpired:
    print("still there")
os.kill(sleeper.pid, 0)
sleeper.send_signal(signal.SIGTERM)
info = os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
print(info.si_pid == sleeper.pid, info.si_status, info.si_code == os.CLD_KILLED, info.si_signo)
print(sleeper.wait(), sleeper.stdout.read())
sleeper.stdout.close()
try:
    os.kill(sleeper.pid, 0)
except ProcessLookupError as error:
    print(error.errno)

ended = threading.Event()
signal.signal(signal.SIGCHLD, lambda number, _frame: ended.set())
pid = os.posix_spawn("/bin/true", ["true"], os.environ)
print(ended.wait(10), os.waitpid(pid, 0) == (pid, 0))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
pid = os.posix_spawn("/bin/true", ["true"], os.environ)
try:
    os.waitpid(pid, 0)
except ChildProcessError as error:
    print(error.errno)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)

# A program that ends while one of its threads waits for a program of its own.
code = (
    "import os, subprocess as s, threading, time\n"
    "sleeper = s.Popen(['sleep', '1'], stdin=s.DEVNULL, stdout=s.DEVNULL, stderr=s.DEVNULL)\n"
    "threading.Thread(target=sleeper.wait, daemon=True).start()\n"
    "threading.Thread(target=signal.sigwait, args=([signal.SIGUSR1],), daemon=True).start()\n"
    "time.sleep(0.1)\n"
    "os._exit(4)"
)
print(said("import signal\n" + code))

# Many, from many threads; a child's child; a pipeline of two; a program in place of another.
with ThreadPoolExecutor(6) as pool:
    print(list(pool.map(lambda n: said(f"print({n})")[1].strip(), range(12))))
print(said("import subprocess, sys; print(subprocess.check_output([sys.executable, '-S', '-c', 'print(1)']))"))
first = subprocess.Popen([*PYTHON, "print('b\\na')"], stdout=subprocess.PIPE)
second = subprocess.Popen(["sort"], stdin=first.stdout, stdout=subprocess.PIPE)
first.stdout.close()
print(second.communicate()[0], first.wait(), second.returncode)
print(said("import os, sys; os.execv('/bin/echo', ['echo', 'in place'])"))
print(said("import os, sys; os.execve(sys.executable, [sys.executable, '-S', '-c', 'import sys; sys.exit(9)'], {})"))
print(os.system("exit 5") >> 8, subprocess.check_output("echo a; echo b", shell=True))
