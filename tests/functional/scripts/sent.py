"""Signals with values to others, the alternate stack, names of threads, epoll with duplicates, the limit of a file's length."""

import ctypes
import errno
import os
import resource
import select
import signal
import struct
import tempfile
import threading

libc = ctypes.CDLL(None, use_errno=True)


def named(result):
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result


chosen = [signal.SIGRTMIN, signal.SIGUSR1]
signal.pthread_sigmask(signal.SIG_BLOCK, chosen)
child = os.fork()
if child == 0:
    for _ in range(3):
        got = signal.sigwaitinfo(chosen)
        print("got", got.si_signo == signal.SIGRTMIN, got.si_code, got.si_pid == os.getppid(), flush=True)
    os._exit(0)
parent = struct.pack("iiiiiiq", 0, 0, -1, 0, os.getpid(), os.getuid(), 7) + bytes(96)
print("queued", named(libc.sigqueue(child, signal.SIGRTMIN, ctypes.c_void_p(7))))
print("to its thread", named(libc.syscall(297, child, child, int(signal.SIGRTMIN), parent)))
print("by tgkill", named(libc.syscall(234, child, child, int(signal.SIGUSR1))))
os.waitpid(child, 0)
forged = struct.pack("iiii", 0, 0, 0, 0) + bytes(112)
child = os.fork()
if child == 0:
    signal.pause()
print("as if by kill", named(libc.syscall(129, child, 10, forged)), named(libc.syscall(129, os.getpid(), 10, forged)))
print("nobody", named(libc.sigqueue(2**22 - 1, 10, None)))
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)


class Stack(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


room = ctypes.create_string_buffer(65536)
both = Stack(ctypes.addressof(room), 0, len(room))
print("old and new in one", libc.sigaltstack(ctypes.byref(both), ctypes.byref(both)), both.base, both.flags)
now = Stack()
libc.sigaltstack(None, ctypes.byref(now))
print(now.base == ctypes.addressof(room), now.size)
none = Stack(None, 2, 0)
libc.sigaltstack(ctypes.byref(none), None)


def name():
    text = ctypes.create_string_buffer(16)
    libc.prctl(16, text, 0, 0, 0)
    return text.value


def in_a_thread():
    print("inherited", name())
    libc.prctl(15, b"other", 0, 0, 0)
    print("its own", name())


libc.prctl(15, b"a name that is too long", 0, 0, 0)
print(name())
thread = threading.Thread(target=in_a_thread)
thread.start()
thread.join()
with open("/proc/self/comm") as comm:
    print(name(), comm.read())
child = os.fork()
if child == 0:
    print("of a copy", name(), flush=True)
    os._exit(0)
os.waitpid(child, 0)

poller = select.epoll()
event = os.eventfd(1)
second, third = os.dup(event), os.dup(event)


def told(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return sorted(fd == event for fd, _ in poller.poll(0))


print("added", told(poller.register, event, select.EPOLLIN), told(poller.register, second, select.EPOLLIN))
print("again", told(poller.register, event), told(poller.register, second))
print("changed", told(poller.modify, second, 0), told(poller.modify, second, select.EPOLLIN))
print("removed", told(poller.unregister, second), told(poller.register, second, select.EPOLLIN))
print("third", told(poller.register, third, select.EPOLLIN), told(poller.unregister, event))
reading, writing = os.pipe()
poller = select.epoll()
copies = [os.dup(writing) for _ in range(3)]
for fd in (writing, *copies):
    poller.register(fd, select.EPOLLERR)
for fd in (writing, *copies):
    os.close(fd)
print("closed", select.select([reading], [], [], 1)[0] == [reading], poller.poll(0))

with tempfile.TemporaryFile(buffering=0) as file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    fd = file.fileno()

    def limited(call, *arguments):
        try:
            return call(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno]

    print(limited(os.write, fd, bytes(600)), limited(os.writev, fd, [bytes(300), bytes(300)]), limited(os.write, fd, b"x"))
    print(limited(os.pwrite, fd, b"abc", 998), limited(os.pwrite, fd, b"", 5000), limited(os.pwrite, fd, b"x", 5000))
    print(limited(os.ftruncate, fd, 2000), limited(os.posix_fallocate, fd, 0, 2000), limited(os.ftruncate, fd, 900))
    print(os.fstat(fd).st_size)
