"""The arena's memory as this side has it: which of the heap's pages are mapped, and how bodies get in and out.

A page that is touched for the first time costs a fault, under shadow paging one for each group of pages. Not thread safe: the
channel locks, but for reads and writes of what the caller holds.
"""

import contextlib
import mmap
from collections.abc import Iterable

from .. import abi
from .transport import Transport

Buffer = bytes | bytearray | memoryview
# Heap about to be used for the first time is mapped at once from this size on (bytes): one exit instead of a fault a page.
MAPPED_FROM = 1 << 16
# A whole body of that size goes to and from heap that is not mapped without mapping it, by one exit, as often as this
# between two rests. Mapped, it still costs a fault for each group of pages, once.
_COPIES = 16
# linux/mman.h; older Pythons' mmap does not name it.
_MADV_POPULATE_WRITE = 23


class Pages:
    """One arena's mapping. Offsets and lengths are in bytes from the arena's start."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.arena = transport.arena
        self._memory = memoryview(transport.arena)
        self.forget()

    def forget(self) -> None:
        """The arena is a fresh one."""
        # Up to where the heap has been written to, by either side; up to where this side has touched it itself.
        self.touched = self.mapped = abi.HEAP
        self._copies = 0

    def view(self, start: int, end: int) -> memoryview:
        """Heap from `start` to `end`, about to be written by this side, or read of what the other wrote."""
        if end > self.mapped:
            self.map(start, end)
        return self._memory[start:end]

    def copy(self, start: int, end: int) -> bytes:
        """The bytes of the heap from `start` to `end`."""
        if end > self.mapped:
            if end - start >= MAPPED_FROM and self._copies < _COPIES:
                self._copies += 1
                data = self._transport.read(start, end - start)
                if len(data) == end - start:
                    return data
            self.map(start, end)
        return self.arena[start:end]

    def put(self, start: int, data: Buffer, length: int) -> None:
        """Write a body of `length` bytes to the heap at `start`."""
        end = start + length
        if end > self.mapped:
            if length >= MAPPED_FROM and self._copies < _COPIES:
                self._copies += 1
                if self._transport.write(start, data) == length:
                    return
            self.map(start, end)
        self.arena[start:end] = data

    def map(self, start: int, end: int) -> None:
        """Have what is not mapped yet up to `end` mapped, for a use from `start` on."""
        first = max(self.mapped, start) & -mmap.PAGESIZE
        if end - first >= MAPPED_FROM:
            with contextlib.suppress(OSError):  # pages are mapped as they are touched, then
                self.arena.madvise(_MADV_POPULATE_WRITE, first, end - first)
        # What lies below and is not small may be a body that nobody has looked at.
        if start - self.mapped < MAPPED_FROM:
            self.mapped = end

    def remove(self, ranges: Iterable[tuple[int, int]], kept: int) -> None:
        """Give the memory of `ranges` (offset, length) back, but for what lies below `kept`."""
        for start, length in ranges:
            first = max(start, kept) + mmap.PAGESIZE - 1 & -mmap.PAGESIZE
            last = min(start + length, self.touched) + mmap.PAGESIZE - 1 & -mmap.PAGESIZE
            if start + length < last:
                last -= mmap.PAGESIZE
            if first < last:
                with contextlib.suppress(OSError):  # memory is kept then, nothing else
                    self.arena.madvise(mmap.MADV_REMOVE, first, last - first)
        self.given_back(kept)

    def given_back(self, kept: int) -> None:
        """The memory from `kept` on is new to this side."""
        self.touched = min(self.touched, kept)
        self.mapped = min(self.mapped, kept)
        self._copies = 0
