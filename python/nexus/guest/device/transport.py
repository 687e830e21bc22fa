"""How a guest reaches its arena: the device of a microVM, or descriptors that a jailed process inherits."""

import errno
import fcntl
import mmap
import os
import select
from typing import Protocol

from .. import abi
from .errors import DeviceUnavailableError


class Transport(Protocol):
    """The arena's memory, its doorbell and its wait."""

    arena: mmap.mmap

    def ring(self) -> None:
        """Tell the backend to look at the submission ring."""

    def wait(self, timeout_ms: int) -> bool:
        """Block until there may be completions. False after `timeout_ms` milliseconds; negative: no limit."""

    def snapshot(self) -> int:
        """Take the snapshot here: 0 where none is taken, 1 in every instance restored from it."""


class DeviceTransport:
    """`/dev/nexus`: a doorbell is one store, a wait one ioctl."""

    def __init__(self, path: str = abi.DEVICE_PATH) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        size = fcntl.ioctl(self._fd, abi.SIZE, 0)
        self.arena = mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._page = mmap.mmap(
            self._fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=abi.DOORBELL_OFFSET
        )
        self._bell = memoryview(self._page).cast("I")

    def ring(self) -> None:
        self._bell[0] = 1

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
        return fcntl.ioctl(self._fd, abi.SNAPSHOT, 0)


class EventfdTransport:
    """Three inherited descriptors (`isolation=process`): arena, doorbell and completion eventfds."""

    def __init__(self, arena: int, doorbell: int, completion: int) -> None:
        self.arena = mmap.mmap(arena, os.fstat(arena).st_size)
        self._doorbell = doorbell
        self._completion = completion
        self._poll = select.poll()
        self._poll.register(completion, select.POLLIN)
        # The flag belongs to the open file, which the backend shares: take it as it is.
        self._blocking = os.get_blocking(completion)

    def ring(self) -> None:
        os.eventfd_write(self._doorbell, 1)

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
        return True

    def snapshot(self) -> int:
        return 0


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
