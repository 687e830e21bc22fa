"""What goes on with a program that is executed, and how much it may be told."""

import os
import signal
import subprocess
import sys
import time


def run(action):
    child = os.fork()
    if child == 0:
        action()
        os._exit(100)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def alarmed():
    signal.alarm(1)
    os.execvp("sleep", ["sleep", "60"])


def left():
    signal.setitimer(signal.ITIMER_REAL, 50, 7)
    program = "import signal; first, rest = signal.setitimer(signal.ITIMER_REAL, 0); print(40 < first <= 50, rest)"
    os.execv(sys.executable, [sys.executable, "-I", "-c", program])


def pending():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.pthread_kill(__import__("threading").get_ident(), signal.SIGUSR2)
    program = "import signal; print(sorted(int(s) for s in signal.sigpending()))"
    os.execv(sys.executable, [sys.executable, "-I", "-c", program])


began = time.monotonic()
print("alarm", run(alarmed), time.monotonic() - began < 50)
print("timer", run(left))
print("pending", run(pending))


def told(count, size):
    try:
        return len(subprocess.run(["/bin/echo", *["x" * size] * count], env={}, capture_output=True, check=True).stdout)
    except OSError as error:
        return error.strerror


print(told(20_000, 5), told(100_000, 5), told(15, 130_000), told(1, 131_071), told(1, 131_072))
print(told(17, 130_000), told(250_000, 0), told(160_000, 5))
