"""How a guest reaches its arena: the device of a microVM, or descriptors that a jailed process inherits."""

import errno
import fcntl
import mmap
import os
import select
import sys
import threading
import time
from typing import Protocol

from .. import abi
from .errors import DeviceUnavailableError

# Pace at which threads ask for the interpreter's lock while the snapshot is taken (seconds).
_UNDISTURBED = 1.0


class Transport(Protocol):
    """The arena's memory, its doorbell and its wait."""

    arena: mmap.mmap
    # Whether instances are restored from snapshots here.
    clones: bool
    # Descriptor whose ioctl `ring_and_wait` is; None where it is something else.
    device: int | None

    def read(self, offset: int, length: int) -> bytes:
        """What the kernel copied of the arena: less than `length` bytes where the caller has to do it."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Bytes that the kernel copied into the arena: as above."""

    def ring(self) -> None:
        """Tell the backend to look at the submission ring."""

    def ring_and_wait(self) -> None:
        """`ring`, then `wait` without a limit."""

    def wait(self, timeout_ms: int) -> bool:
        """Block until there may be completions. False after `timeout_ms` milliseconds; negative: no limit."""

    def snapshot(self) -> int:
        """Take the snapshot here: 0 where none is taken, 1 in every instance restored from it.

        There no other thread runs before `renewed` is called, or some seconds have passed.
        """

    def renewed(self) -> None:
        """Let the other threads of a restored instance go on."""

    def generation(self) -> int:
        """Restores between this instance and its first initialisation."""


class DeviceTransport:
    """`/dev/nexus`: a doorbell is one store, a wait one ioctl."""

    clones = True

    def __init__(self, path: str = abi.DEVICE_PATH) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.device: int | None = self._fd
        size = fcntl.ioctl(self._fd, abi.SIZE, 0)
        self.arena = mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._page = mmap.mmap(
            self._fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=abi.DOORBELL_OFFSET
        )
        self._bell = memoryview(self._page).cast("I")

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> int:
        return os.pwrite(self._fd, data, offset)

    def ring(self) -> None:
        self._bell[0] = 1

    def ring_and_wait(self) -> None:
        # Between a doorbell and a wait the backend would often be given this processor, and leave its caches cold.
        try:
            fcntl.ioctl(self._fd, abi.RING_AND_WAIT, -1)
        except InterruptedError:  # a signal handler ran: let the caller look, and come back
            return

    def wait(self, timeout_ms: int) -> bool:
        while True:
            try:
                fcntl.ioctl(self._fd, abi.WAIT, timeout_ms)
            except InterruptedError:
                return True  # a signal handler ran: let the caller look, and come back
            except OSError as error:
                if error.errno == errno.ETIMEDOUT:
                    return False
                raise
            return True

    def snapshot(self) -> int:
        # The interpreter's lock is kept over the call, or a thread that is held after the restore could have it. Nor may
        # one have asked for it, which would make this thread hand it over: they are left to ask at a slower pace,
        # and those that have asked already get it before.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_UNDISTURBED)
        try:
            if threading.active_count() > 1:
                time.sleep(4 * interval)
            return _keeping_the_lock(self._fd, abi.SNAPSHOT_AND_HOLD)
        finally:
            sys.setswitchinterval(interval)

    def renewed(self) -> None:
        fcntl.ioctl(self._fd, abi.RENEWED, 0)

    def generation(self) -> int:
        return fcntl.ioctl(self._fd, abi.GENERATION, 0)


class EventfdTransport:
    """Three inherited descriptors (`isolation=process`): arena, doorbell and completion eventfds."""

    clones = False
    device: int | None = None

    def __init__(self, arena: int, doorbell: int, completion: int) -> None:
        self.arena = mmap.mmap(arena, os.fstat(arena).st_size)
        self._doorbell = doorbell
        self._completion = completion
        self._poll = select.poll()
        self._poll.register(completion, select.POLLIN)
        # The flag belongs to the open file, which the backend shares: take it as it is.
        self._blocking = os.get_blocking(completion)

    def read(self, offset: int, length: int) -> bytes:
        return b""  # a process's own faults cost less

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> int:
        return 0

    def ring(self) -> None:
        os.eventfd_write(self._doorbell, 1)

    def ring_and_wait(self) -> None:
        self.ring()
        self.wait(-1)

    def wait(self, timeout_ms: int) -> bool:
        if timeout_ms >= 0 or not self._blocking:
            ready = self._poll.poll(None if timeout_ms < 0 else timeout_ms)
            if not ready:
                return False
            if ready[0][1] & ~select.POLLIN:
                raise DeviceUnavailableError(errno.EPIPE, "the backend closed the completion eventfd")
        try:
            os.eventfd_read(self._completion)
        except BlockingIOError:
            self._blocking = False
        except InterruptedError:  # as above
            pass
        return True

    def snapshot(self) -> int:
        return 0

    def renewed(self) -> None:
        pass

    def generation(self) -> int:
        return 0


def _keeping_the_lock(fd: int, command: int) -> int:
    """An ioctl, its argument of no interest, during which no other Python thread gets the interpreter's lock."""
    result: int
    if sys.hexversion < 0x030E0000:  # 3.14
        # So does this module where the buffer is too long to be copied, since it could be resized meanwhile.
        result = fcntl.ioctl(fd, command, bytearray(2048))
        return result
    import ctypes

    result = ctypes.PyDLL(None, use_errno=True).ioctl(fd, ctypes.c_ulong(command), 0)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), abi.DEVICE_PATH)
    return result


def open_transport() -> Transport:
    """The transport that this guest was given. Raises DeviceUnavailableError where there is none."""
    inherited = os.environ.get(abi.PROCESS_ENV)
    try:
        if inherited is None:
            return DeviceTransport()
        arena, doorbell, completion = (int(text) for text in inherited.split(","))
        return EventfdTransport(arena, doorbell, completion)
    except (OSError, ValueError) as error:
        where = abi.DEVICE_PATH if inherited is None else f"{abi.PROCESS_ENV}={inherited}"
        raise DeviceUnavailableError(
            errno.ENODEV, f"no arena at {where} ({error}): this program runs inside a Nexus instance only"
        ) from error
