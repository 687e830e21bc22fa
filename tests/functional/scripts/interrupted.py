"""What a signal does to calls that wait or take long, and what the end of a process does to its locks."""

import ctypes
import errno
import mmap
import os
import select
import signal
import time

libc = ctypes.CDLL(None, use_errno=True)
NO_RESERVE = 0x4000
nothing = ctypes.create_string_buffer(128)


class Time(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]


class Polled(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


def told(name, result):
    error = errno.errorcode.get(ctypes.get_errno()) if result < 0 else ""
    print(name, result, error, sorted(int(s) for s in signal.sigpending()), flush=True)


signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
poller = select.epoll()
events = ctypes.create_string_buffer(12)
reading, writing = os.pipe()
ready = Polled(writing, select.POLLOUT)
long = Time(20, 0)
began = time.monotonic()
# A signal that waits already, and that the call's mask lets through.
for name, call in {
    "epoll_pwait": lambda: libc.epoll_pwait(poller.fileno(), events, 1, 20_000, nothing),
    "epoll_pwait for ever": lambda: libc.epoll_pwait(poller.fileno(), events, 1, -1, nothing),
    "ppoll": lambda: libc.ppoll(None, 0, ctypes.byref(long), nothing),
    "pselect": lambda: libc.pselect(0, None, None, None, ctypes.byref(long), nothing),
    "epoll_pwait without waiting": lambda: libc.epoll_pwait(poller.fileno(), events, 1, 0, nothing),
    "ppoll of what is ready": lambda: libc.ppoll(ctypes.byref(ready), 1, ctypes.byref(long), nothing),
}.items():
    os.kill(os.getpid(), signal.SIGUSR1)
    told(name, call())
print("at once", time.monotonic() - began < 15)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])

# A wait for a futex with a limit ends, though the handler would have it go on.
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)
word = ctypes.c_int(0)
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
limit = Time(20, 0)
told("futex", libc.syscall(202, ctypes.byref(word), 128, 0, ctypes.byref(limit), None, 0))
signal.setitimer(signal.ITIMER_REAL, 0)

room = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
zeros, random, null = (os.open(f"/dev/{name}", os.O_RDWR) for name in ("zero", "urandom", "null"))
most = 0x7FFF_F000
print("longest", os.readv(zeros, [room] * 200) == most, os.writev(null, [room] * 200) == most)
signal.setitimer(signal.ITIMER_REAL, 0.2)
print("cut short", 0 < os.readv(random, [room] * 1000) < most)
child = os.fork()
if child == 0:
    while True:
        os.readv(random, [room] * 1000)
time.sleep(0.3)
os.kill(child, signal.SIGKILL)
began = time.monotonic()
print("killed", os.waitpid(child, 0)[1], time.monotonic() - began < 15)

# A robust mutex that processes share, of an owner that ends in each way.
attributes = ctypes.create_string_buffer(64)
libc.pthread_mutexattr_init(attributes)
libc.pthread_mutexattr_setpshared(attributes, 1)
libc.pthread_mutexattr_setrobust(attributes, 1)
ends = {
    "exit": lambda: os._exit(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "fault": lambda: ctypes.string_at(0),
    "exec": lambda: os.execv("/bin/true", ["true"]),
}
rooms = [mmap.mmap(-1, 4096) for _ in ends]
for (name, end), shared in zip(ends.items(), rooms, strict=True):
    mutex = ctypes.byref(ctypes.c_char.from_buffer(shared))
    libc.pthread_mutex_init(mutex, attributes)
    child = os.fork()
    if child == 0:
        libc.pthread_mutex_lock(mutex)
        end()
        os._exit(1)
    os.waitpid(child, 0)
    until = Time(int(time.time()) + 20, 0)
    print("owner's", name, errno.errorcode.get(libc.pthread_mutex_timedlock(mutex, ctypes.byref(until))))
    libc.pthread_mutex_consistent(mutex)
    libc.pthread_mutex_unlock(mutex)
