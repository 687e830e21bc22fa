"""Searching the memory of a process. For root."""

from __future__ import annotations

import os
from collections.abc import Iterator


def regions(pid: int) -> Iterator[tuple[int, int]]:
    """The mappings of a process that may be read."""
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            span, permissions, *_rest = line.split(maxsplit=5)
            name = _rest[3].strip() if len(_rest) > 3 else ""
            if permissions[0] == "r" and not name.startswith("[v"):
                start, end = (int(bound, 16) for bound in span.split("-"))
                yield start, end


def resident(pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a mapping that hold something: the rest reads as zeros, and there are gigabytes of it."""
    with open(f"/proc/{pid}/pagemap", "rb") as file:
        for base in range(start, end, 4096 << 9):
            pages = min(end - base, 4096 << 9) // 4096
            file.seek(base // 4096 * 8)
            entries = memoryview(file.read(pages * 8)).cast("Q")
            first = None
            for index in range(pages + 1):
                there = index < pages and entries[index] >> 62 != 0
                if there and first is None:
                    first = index
                elif not there and first is not None:
                    yield base + first * 4096, base + index * 4096
                    first = None


def search(pid: int, needles: dict[str, bytes]) -> tuple[set[str], int]:
    """Which of ``needles`` lie in the memory of a process; how many bytes were searched."""
    found: set[str] = set()
    searched = 0
    overlap = max(map(len, needles.values()))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end in regions(pid):
            tail, last = b"", -1
            for begin, stop in resident(pid, start, end):
                if begin != last:
                    tail = b""
                last = stop
                try:
                    os.lseek(memory.fileno(), begin, os.SEEK_SET)
                    data = tail + memory.read(stop - begin)
                except OSError:
                    continue
                searched += len(data)
                found |= {name for name, needle in needles.items() if needle in data}
                tail = data[-overlap:]
    return found, searched
