"""Handlers, timers, waiting for signals, who sent one, and what interrupts a call."""

import ctypes
import os
import signal
import threading
import time

got = []


def note(number, _frame):
    got.append(signal.Signals(number).name)


def timers():
    for kind, number in (
        (signal.ITIMER_REAL, signal.SIGALRM),
        (signal.ITIMER_PROF, signal.SIGPROF),
        (signal.ITIMER_VIRTUAL, signal.SIGVTALRM),
    ):
        got.clear()
        signal.signal(number, note)
        print(signal.getitimer(kind), signal.setitimer(kind, 0.02, 0.01))
        while len(got) < 3:  # computes, so that CPU time passes
            pass
        print(got[:3], signal.getitimer(kind)[1])
        signal.setitimer(kind, 0)
        print(signal.getitimer(kind))
    print(signal.alarm(100), signal.alarm(0) in (99, 100), signal.alarm(0))
    got.clear()
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    signal.pause()
    print(got)
    for bad in ((9, 1.0), (signal.ITIMER_REAL, -1.0)):
        try:
            signal.setitimer(*bad)
        except (signal.ItimerError, OSError) as error:
            print(type(error).__name__, error.errno)


def senders():
    signal.signal(signal.SIGUSR1, note)
    blocked = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN]
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    print(signal.sigtimedwait(blocked, 0.01))
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
    print(sorted(s.name for s in signal.sigpending()))
    libc = ctypes.CDLL(None)
    for value in (7, 8):
        print(libc.sigqueue(os.getpid(), signal.SIGRTMIN, ctypes.c_void_p(value)))
    for _ in range(4):
        info = signal.sigtimedwait(blocked, 0)
        own = (info.si_pid == os.getpid(), info.si_uid == os.getuid())
        print(info.si_signo, info.si_code, *own, signal.sigpending() == set())
    print(signal.sigtimedwait(blocked, 0))
    threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR2)).start()
    print(signal.sigwait(blocked))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGUSR1)
    print(signal.sigpending())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def interruptions():
    got.clear()
    signal.signal(signal.SIGALRM, note)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    began = time.monotonic()
    time.sleep(0.1)  # goes on after the handler
    print(got, 0.1 <= time.monotonic() - began < 5)

    def stop(_number, _frame):
        raise InterruptedError("by the handler")

    signal.signal(signal.SIGALRM, stop)
    reader, writer = os.pipe()
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    try:
        os.read(reader, 1)
    except InterruptedError as error:
        print(error)
    os.close(reader)
    try:
        os.write(writer, b"x")
    except BrokenPipeError as error:
        print(error.errno)
    lock = threading.Lock()
    lock.acquire()
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    try:
        lock.acquire()
    except InterruptedError as error:
        print(error)
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("KeyboardInterrupt")
    for number in (0, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH):
        os.kill(os.getpid(), number)
    try:
        os.kill(os.getpid(), 65)
    except OSError as error:
        print(error.errno)


timers()
senders()
interruptions()
