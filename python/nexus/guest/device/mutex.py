"""A lock that reads no clock.

CPython's own locks read the monotonic clock at every acquisition, contended or not, which in a guest without a vDSO
is an exit (measured: 40 us against 0.1). Taking the one element of a list is atomic, and all that is needed while
nobody else wants it; a real lock is made for those who have to wait.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .native import native


class PythonLatch:
    """What is quick about a `Mutex`, where the native module cannot be loaded."""

    __slots__ = ("_free", "waiting")

    def __init__(self) -> None:
        self._free: list[None] = [None]
        # Locks that those who wait have acquired, and wait for again.
        self.waiting: list[threading.Lock] = []

    def keep_quiet(self, guard: object) -> None:
        """Neither is garbage collected while it is held, nor do handlers run: a finalizer could make a call that waits for it. (Here it
        is, and they do.)
        """

    def abandon(self) -> None:
        """In a process that fork made: whoever held it is not there."""

    def try_acquire(self) -> bool:
        """Take it if it is free."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def acquire(self) -> None:
        """Take it, and wait for that if need be."""
        raise NotImplementedError

    def release(self) -> None:
        """Give it back, and wake one who waits."""
        self._free.append(None)
        if self.waiting:
            try:
                gate = self.waiting.pop()
            except IndexError:  # the last of them withdrew
                return
            gate.release()

    def __enter__(self) -> None:
        if not self.try_acquire():
            self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


if TYPE_CHECKING or native is None:  # noqa: SIM108
    Latch = PythonLatch
else:
    Latch = native.Latch


class Mutex(Latch):
    """Mutual exclusion, not reentrant. The order of waiters is not kept."""

    __slots__ = ()

    def acquire(self) -> None:
        """Take it, and wait for that if need be."""
        while not self.try_acquire():
            gate = threading.Lock()
            gate.acquire()
            self.waiting.append(gate)
            # Whoever holds it looks for waiters after giving it back: either that is yet to come, or it is free now.
            if self.try_acquire():
                self._withdraw(gate)
                return
            gate.acquire()

    def _withdraw(self, gate: threading.Lock) -> None:
        try:
            self.waiting.remove(gate)
        except ValueError:  # woken meanwhile: the next in line gets that instead
            if self.waiting:
                try:
                    self.waiting.pop().release()
                except IndexError:
                    return


class Barred(Mutex):
    """One that nobody ever gets: who tries is told why.

    :param reason: makes the error.
    """

    def __init__(self, reason: Callable[[], BaseException]) -> None:
        super().__init__()
        self._reason = reason

    def try_acquire(self) -> bool:
        """Raise."""
        raise self._reason()

    def __enter__(self) -> None:
        raise self._reason()
