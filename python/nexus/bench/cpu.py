"""CPU time of processes, in nanoseconds, from the scheduler's own accounts rather than from ticks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# The kernel's coding of "CPU clock of process PID, from the scheduler": see clock_getcpuclockid(3).
_CLOCK_SCHED = 2


def process_ns(pid: int) -> int:
    """User and system time of a process with all its threads, guest time included once; 0 where it has ended.

    The sum over ``/proc/PID/task/*/schedstat`` forgets threads that ended. The process's CPU clock counts the
    same time and keeps theirs, so the larger of the two is what was used.
    """
    return max(schedstat_ns(pid), _clock_ns(pid))


def schedstat_ns(pid: int) -> int:
    """Time on a CPU of the threads that live, from ``schedstat``."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
            except (OSError, ValueError, IndexError):
                continue
    except OSError:
        return 0
    return total


def _clock_ns(pid: int) -> int:
    try:
        return time.clock_gettime_ns((~pid << 3) | _CLOCK_SCHED)
    except (OSError, OverflowError):
        return 0


def children(pid: int) -> list[int]:
    """Process ids of a process's children, whichever of its threads started them."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                found += map(int, (task / "children").read_text(encoding="ascii").split())
            except OSError:
                continue
    except OSError:
        pass
    return found


def total_ns(pids: Iterable[int]) -> int:
    """Sum of :func:`process_ns`."""
    return sum(process_ns(pid) for pid in pids)
