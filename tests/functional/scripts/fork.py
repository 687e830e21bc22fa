"""Copies of a process: their memory, descriptors, signals, locks; and what is made of them."""

import ctypes
import fcntl
import mmap
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import threading
import time


def child(work):
    """What a child that does `work` ends with."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        os._exit(work() or 0)
    finally:
        os._exit(99)


# Memory is a copy, whatever it is made of; shared memory is shared.
private, shared = mmap.mmap(-1, 1 << 22, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), mmap.mmap(-1, 8192)
with open("/tmp/copied", "w+b") as file:
    file.write(b"file" * 2048)
    file.flush()
    changed = mmap.mmap(file.fileno(), 8192, flags=mmap.MAP_PRIVATE)
changed[0:3], private[1 << 21], numbers = b"own", 7, list(range(1000))


def look():
    ok = changed[0:8] == b"owneile"[0:3] + b"efil" + b"e" and private[1 << 21] == 7 and sum(numbers) == 499500
    changed[4096], private[1 << 21], shared[5] = 1, 8, 9
    numbers.clear()
    return 0 if ok else 1


print("memory", child(look), changed[4096], private[1 << 21], shared[5], len(numbers))
print("pages nobody may read", end=" ")
libc = ctypes.CDLL(None, use_errno=True)
address = ctypes.addressof(ctypes.c_char.from_buffer(private))
hidden = ctypes.c_void_p(address + (1 << 21))
libc.mprotect(hidden, 4096, 0)
print(child(lambda: libc.mprotect(hidden, 4096, 3) or private[1 << 21]))
libc.mprotect(hidden, 4096, 3)

# Who is who.
me = os.getpid()
print("names", child(lambda: os.getppid() != me or os.getpid() == me or threading.get_native_id() != os.getpid()))
print("within", child(lambda: child(lambda: child(lambda: 5) + 1) + 1))

# Descriptors are shared, with their positions.
reader, writer = os.pipe()
with open("/tmp/position", "w+b") as file:
    file.write(b"0123456789")
    file.seek(2)
    print(
        "files", child(lambda: file.raw.read(3) != b"234" or os.write(writer, b"x") != 1), file.raw.tell(), os.read(reader, 5)
    )

# Threads stay behind; what they hold is the program's affair.
go, ready = threading.Event(), threading.Event()
thread = threading.Thread(target=lambda: (ready.set(), go.wait()))
thread.start()
ready.wait()
print("threads", child(lambda: len(os.listdir("/proc/self/fd")) == 0 or threading.active_count() - 1))
go.set()
thread.join()

# Signals: handlers are kept, what is pending is not; either can signal the other.
signal.signal(signal.SIGUSR1, lambda *_: os.write(writer, b"caught"))
print("signals", child(lambda: os.kill(os.getpid(), signal.SIGUSR1)), os.read(reader, 10))
print(child(lambda: os.kill(me, signal.SIGUSR1)), os.read(reader, 10))
pid = os.fork()
if pid == 0:
    signal.pause()
    os._exit(4)
time.sleep(0.2)
os.kill(pid, signal.SIGUSR1)
print(os.waitpid(pid, 0)[1] >> 8, os.read(reader, 10))
print(child(lambda: os.kill(os.getpid(), signal.SIGKILL)))

# A program in place of the copy.
print("exec", child(lambda: os.execv("/bin/sh", ["sh", "-c", "exit 6"])))
print(os.spawnv(os.P_WAIT, "/bin/sh", ["sh", "-c", "exit 8"]))
for line in ("echo abc | tr a-c A-C | rev", "x=$(echo in; (exit 3)); echo $x $?", "{ echo one & wait; } | cat; (cd /; pwd)"):
    print(subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout.split())
print(subprocess.run(["sh", "-c", "yes | head -n 3; false | true; echo $?"], capture_output=True, check=True).stdout)

# Processes of multiprocessing: locks, queues and pools over shared memory.
context = multiprocessing.get_context("fork")
total, lock = context.Value("i", 0), context.Lock()


def add(times):
    for _ in range(times):
        with lock:
            total.value += 1


workers = [context.Process(target=add, args=(500,)) for _ in range(3)]
for one in workers:
    one.start()
for one in workers:
    one.join()
print("multiprocessing", total.value, {one.exitcode for one in workers})
with context.Pool(2) as pool:
    print(pool.map(len, ["a", "bb", "ccc"]))
queue = context.Queue()
sender = context.Process(target=lambda: queue.put("sent"))
sender.start()
print(queue.get(timeout=60))
sender.join()

# Record locks hold between processes, and go with a descriptor of the file or with their process.
with open("/tmp/locked", "w+b") as file:
    os.truncate(file.fileno(), 100)

    def refused(start, length, kind=fcntl.LOCK_EX):
        with open("/tmp/locked", "r+b") as other:
            try:
                fcntl.lockf(other, kind | fcntl.LOCK_NB, length, start)
            except OSError as error:
                return error.errno
            return 0

    fcntl.lockf(file, fcntl.LOCK_EX, 10, 20)
    print("locks", [child(lambda at=at: refused(at, 5)) for at in (0, 16, 29, 30)])
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)

    def told():
        kind, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))
        return 0 if (kind, start, length, pid) == (fcntl.F_WRLCK, 20, 10, me) else 1

    print(child(told))
    fcntl.lockf(file, fcntl.LOCK_SH, 10, 20)
    print([child(lambda kind=kind: refused(20, 1, kind)) for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX)])
    open("/tmp/locked").close()
    print(child(lambda: refused(20, 1)))

    pid = os.fork()
    if pid == 0:
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(writer, b"held")
        time.sleep(0.3)
        os._exit(0)
    os.read(reader, 10)
    began = time.monotonic()
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("waited", time.monotonic() - began > 0.1, os.waitpid(pid, 0)[1])
