"""The arena's payload heap, which the guest alone manages.

First fit from low addresses, so that the same few pages are used again and again: a page costs memory and a
fault only once it is touched. Only free ranges are recorded; whoever holds a range may give back any part of it.
"""

from bisect import bisect_left

from .. import abi

ALIGNMENT = abi.BODY_ALIGNMENT
_ROUND = ALIGNMENT - 1


def aligned(size: int) -> int:
    """Round `size` up to the heap's granularity (bytes)."""
    return (size + ALIGNMENT - 1) & -ALIGNMENT


class Heap:
    """Offsets and lengths of free ranges, in bytes from the arena's start. Not thread safe: the channel locks."""

    __slots__ = ("_lengths", "_starts", "end", "free_bytes", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self._starts = [start]
        self._lengths = [end - start]
        self.free_bytes = end - start

    def allocate(self, fixed: int, room_min: int = 0, room_max: int = 0) -> tuple[int, int] | None:
        """Take `fixed` bytes followed by a room of between `room_min` and `room_max` bytes.

        Prefers the lowest range that holds the largest room; settles for the largest range there is if that
        holds `room_min`. Returns the offset and the room's length, or None where nothing fits.
        """
        fixed = (fixed + _ROUND) & -ALIGNMENT
        room_max = (room_max + _ROUND) & -ALIGNMENT
        lengths = self._lengths
        wanted = fixed + room_max
        for index, length in enumerate(lengths):
            if length >= wanted:
                return self._take(index, wanted), room_max
        if not lengths:
            return None
        largest = max(lengths)
        if largest < fixed + aligned(room_min):
            return None
        return self._take(lengths.index(largest), largest), largest - fixed

    def _take(self, index: int, size: int) -> int:
        offset = self._starts[index]
        if self._lengths[index] == size:
            del self._starts[index], self._lengths[index]
        else:
            self._starts[index] += size
            self._lengths[index] -= size
        self.free_bytes -= size
        return offset

    @property
    def held_until(self) -> int:
        """From here on everything is free."""
        if self._starts and self._starts[-1] + self._lengths[-1] == self.end:
            return self._starts[-1]
        return self.end

    def free_ranges(self) -> list[tuple[int, int]]:
        """Offset and length of every free range, lowest first."""
        return list(zip(self._starts, self._lengths, strict=True))

    def release(self, offset: int, length: int) -> None:
        """Give back `length` bytes at `offset`; both multiples of the granularity."""
        if length <= 0:
            return
        starts, lengths = self._starts, self._lengths
        end = offset + length
        index = bisect_left(starts, offset)
        before = index > 0 and starts[index - 1] + lengths[index - 1]
        if (index > 0 and before > offset) or (index < len(starts) and end > starts[index]):
            raise ValueError(f"arena heap: range {offset:#x}+{length:#x} is free already")
        self.free_bytes += length
        joins_next = index < len(starts) and starts[index] == end
        if index > 0 and before == offset:
            lengths[index - 1] += length
            if joins_next:
                lengths[index - 1] += lengths[index]
                del starts[index], lengths[index]
        elif joins_next:
            starts[index] = offset
            lengths[index] += length
        else:
            starts.insert(index, offset)
            lengths.insert(index, length)
