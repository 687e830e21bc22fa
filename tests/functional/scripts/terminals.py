"""Pseudo-terminals: lines, raw bytes, signals, sizes, and programs that run in one."""

import functools
import os
import pty
import select
import signal
import subprocess
import termios
import tty

print = functools.partial(print, flush=True)  # noqa: A001 - children must not print what was waiting here


def drained(fd):
    """What can be read until the other end is gone."""
    out = b""
    while True:
        try:
            part = os.read(fd, 1000)
        except OSError as error:
            return out, error.errno
        if not part:
            return out, 0
        out += part


master, slave = os.openpty()
print(os.isatty(master), os.isatty(slave), os.ttyname(slave).startswith("/dev/pts/"))
os.write(slave, b"out\n")
print(os.read(master, 100))
os.write(master, b"ed\x7fit\rnext\nunended")
print(select.select([slave], [], [], 10)[0] == [slave], os.read(slave, 100), os.read(slave, 2), os.read(slave, 100))
print(os.read(master, 100), select.select([slave], [], [], 0)[0])
os.write(master, b"\x15\x04")
print(os.read(slave, 100), os.read(master, 100))
settings = termios.tcgetattr(slave)
tty.setraw(slave)
os.write(master, b"\x03\x04\r\n")
print(os.read(slave, 100))
os.write(slave, b"raw\n")
print(os.read(master, 100))
termios.tcsetattr(slave, termios.TCSANOW, settings)
print(termios.tcgetattr(slave) == settings)
termios.tcsetwinsize(master, (24, 100))
print(os.get_terminal_size(slave), subprocess.check_output(["stty", "size"], stdin=slave))
os.write(master, b"lost\n")
print(os.read(master, 100))
termios.tcflush(slave, termios.TCIFLUSH)
os.set_blocking(slave, False)
try:
    os.read(slave, 10)
except BlockingIOError:
    print("flushed")
os.close(slave)
print(drained(master))
os.close(master)

pid, fd = pty.fork()
if pid == 0:
    print(os.getsid(0) == os.getpid(), os.tcgetpgrp(0) == os.getpid(), os.path.exists(os.ctermid()))
    os.execv("/bin/sh", ["sh", "-c", "tty > /dev/tty; read line; echo got $line; kill -WINCH $$; exit 3"])
os.write(fd, b"typed\n")
text, why = drained(fd)
print(text.replace(os.fsencode(os.path.basename(text.split(b"/dev/pts/")[1].split(b"\r")[0])), b"N"), why)
print(os.waitpid(pid, 0)[1] >> 8)

# Typed control characters are signals for whoever is in the foreground; a hang-up ends the session's leader.
for typed in (b"\x03", None):
    pid, fd = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(1, b"ready")
        signal.pause()
        os._exit(9)
    while b"ready" not in os.read(fd, 100):
        pass
    if typed:
        os.write(fd, typed)
    else:
        os.close(fd)
    print(os.waitpid(pid, 0)[1])
