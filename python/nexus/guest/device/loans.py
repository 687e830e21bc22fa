"""Bodies that are `bytes` where they lie in the arena: read without a copy, and written without one where they are sent on.

An object's memory comes back some time after its end. It lies in the lower half of the heap, so that the other half is there for
whoever needs much in one piece, however long a program keeps what it has read. Not thread safe: the channel locks.
"""

import mmap
from typing import Any

from .. import abi
from .heap import ALIGNMENT, Heap, aligned
from .native import native


class Loans:
    """What is lent of one arena."""

    def __init__(self, arena: mmap.mmap) -> None:
        """Raises RuntimeError where this interpreter's objects have to lie elsewhere."""
        if native is None:
            raise RuntimeError("only the native module can make an object in a given place")
        self._native: Any = native.Loans(arena)
        self._until = abi.HEAP + (len(arena) - abi.HEAP) // 2
        self._lent: dict[int, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._lent)

    def lend(self, heap: Heap, start: int, end: int, offset: int, length: int) -> bytes | None:
        """The `length` bytes at `offset` as an object, whose heap is its own from now on; all else of `start` to `end` is given back.

        None where it does not fit there, or cannot be lent just now; nothing is given back then.
        """
        first, last = offset - ALIGNMENT, aligned(offset + length + self._native.BEHIND)
        if first < start or last > end or last > self._until:
            return None
        lent: bytes | None = self._native.lend(offset, length)
        if lent is not None:
            heap.release(start, first - start)
            heap.release(last, end - last)
            self._lent[offset] = (first, last - first)
        return lent

    def offset(self, body: object) -> int:
        """Where `body` lies in the arena; 0 where it does not."""
        return self._native.offset(body) if self._lent and type(body) is bytes else 0

    def take_back(self, heap: Heap) -> None:
        """Give back to `heap` what objects have ended of."""
        for offset in self._native.returned():
            heap.release(*self._lent.pop(offset))


def of(arena: mmap.mmap) -> Loans | None:
    """Loans of this arena, or None where bodies are copied."""
    try:
        return Loans(arena)
    except RuntimeError:
        return None
