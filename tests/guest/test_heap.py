import random

import pytest
from nexus.guest.device.heap import ALIGNMENT, Heap, aligned


def test_lowest_range_first_and_coalescing():
    heap = Heap(0x4000, 0x4000 + 64 * 100)
    first, _ = heap.allocate(100)
    second, _ = heap.allocate(64)
    third, _ = heap.allocate(64)
    assert (first, second, third) == (0x4000, 0x4080, 0x40C0)
    heap.release(first, 128)
    heap.release(third, 64)
    heap.release(second, 64)
    assert heap.free_bytes == 6400
    assert heap.allocate(6400) == (0x4000, 0)


def test_room_shrinks_to_what_there_is():
    heap = Heap(0, 64 * 10)
    assert heap.allocate(64, room_min=64, room_max=64 * 100) == (0, 64 * 9)
    assert heap.allocate(64, room_min=0, room_max=0) is None


def test_double_release_is_refused():
    heap = Heap(0, 6400)
    offset, _ = heap.allocate(640)
    heap.release(offset, 640)
    with pytest.raises(ValueError, match="free already"):
        heap.release(offset, 64)


def test_random_traffic_never_overlaps_and_ends_whole():
    generator = random.Random(7)
    heap = Heap(0x4000, 0x4000 + (1 << 16))
    held: dict[int, int] = {}
    for _ in range(5000):
        if held and generator.random() < 0.5:
            offset, length = held.popitem() if generator.random() < 0.5 else next(iter(held.items()))
            held.pop(offset, None)
            heap.release(offset, length)
        else:
            fixed, room = generator.randrange(1, 3000), generator.randrange(0, 3000)
            place = heap.allocate(fixed, 0, room)
            if place is None:
                continue
            offset, got = place
            length = aligned(fixed) + got
            assert offset % ALIGNMENT == 0
            assert all(offset + length <= start or start + size <= offset for start, size in held.items())
            held[offset] = length
    for offset, length in held.items():
        heap.release(offset, length)
    assert heap.allocate(1 << 16) == (0x4000, 0)
