"""A lock that reads no clock.

CPython's own locks read the monotonic clock at every acquisition, contended or not, which in a guest without a vDSO
is an exit (measured: 40 us against 0.1). Taking the one element of a list is atomic, and all that is needed while
nobody else wants it; a real lock is made for those who have to wait.
"""

import threading
from collections.abc import Callable


class Mutex:
    """Mutual exclusion, not reentrant. The order of waiters is not kept."""

    __slots__ = ("_free", "_waiting")

    def __init__(self) -> None:
        self._free: list[None] = [None]
        self._waiting: list[threading.Lock] = []

    def try_acquire(self) -> bool:
        """Take it if it is free."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def acquire(self) -> None:
        """Take it, and wait for that if need be."""
        while not self.try_acquire():
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
            # Whoever holds it looks for waiters after giving it back: either that is yet to come, or it is free now.
            if self.try_acquire():
                self._withdraw(gate)
                return
            gate.acquire()

    def release(self) -> None:
        """Give it back, and wake one who waits."""
        self._free.append(None)
        if self._waiting:
            try:
                gate = self._waiting.pop()
            except IndexError:  # the last of them withdrew
                return
            gate.release()

    def _withdraw(self, gate: threading.Lock) -> None:
        try:
            self._waiting.remove(gate)
        except ValueError:  # woken meanwhile: the next in line gets that instead
            if self._waiting:
                try:
                    self._waiting.pop().release()
                except IndexError:
                    return

    def __enter__(self) -> None:
        if not self.try_acquire():
            self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class Barred(Mutex):
    """One that nobody ever gets: who tries is told why.

    :param reason: makes the error.
    """

    __slots__ = ("_reason",)

    def __init__(self, reason: Callable[[], BaseException]) -> None:
        super().__init__()
        self._reason = reason

    def try_acquire(self) -> bool:
        """Raise."""
        raise self._reason()
