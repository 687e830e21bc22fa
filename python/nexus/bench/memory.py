"""Memory of the system and of processes."""

from __future__ import annotations

import os
import re
import statistics
import time
from pathlib import Path

# Memory of ended virtual machines drains late; measured up to 15 s.
_LONGEST_DRAIN_S = 15.0
_LONGEST_REST_S = 60.0
# Behind a rest of five seconds another twenty make a long one; and what that takes of thousands.
_LONG_REST_S = 22.0
# Seconds that a run waits for at most where its figures do not matter: on a busy machine memory never settles.
_PATIENCE = "NEXUS_BENCH_PATIENCE"
# Other processes come and go; below this much in half a second nothing of ours does.
_QUIET_KIB = 2048
_SAMPLES = 9


def available_kib() -> int:
    """``MemAvailable``, the median of a few readings."""
    readings = []
    for _ in range(_SAMPLES):
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
        readings.append(int(match[1]) if match else 0)
        time.sleep(0.02)
    return int(statistics.median(readings))


def settled_kib() -> int:
    """``MemAvailable`` once it rises no more: what has ended has given its memory back."""
    deadline = time.monotonic() + _patience(_LONGEST_DRAIN_S)
    before, quiet = available_kib(), 0
    while time.monotonic() < deadline and quiet < 2:  # noqa: PLR2004
        time.sleep(0.5)
        now = available_kib()
        quiet = quiet + 1 if abs(now - before) < _QUIET_KIB else 0
        before = now
    return before


def await_rest(pids: list[int]) -> None:
    """Wait until instances at rest have given back what they hold in double (see the node's ``tidy_ms``)."""
    sample = pids[:: max(1, len(pids) // 16)]
    deadline = time.monotonic() + _patience(_LONGEST_REST_S)
    before, quiet = sum(map(anonymous_kib, sample)), 0
    # A rest before the memory is looked at lasts five seconds: as long without a change, and it is over.
    while time.monotonic() < deadline and quiet < 7:  # noqa: PLR2004
        time.sleep(1)
        now = sum(map(anonymous_kib, sample))
        quiet = quiet + 1 if now >= before else 0
        before = now


def await_long_rest() -> None:
    """Wait until instances whose rest was waited for have rested for long, and KVM holds little for them."""
    time.sleep(_patience(_LONG_REST_S))


def _patience(longest_s: float) -> float:
    return min(longest_s, float(os.environ.get(_PATIENCE, longest_s)))


def pss_kib(pid: int) -> int:
    """Proportional set size; 0 where the process has ended or may not be looked at."""
    return _rollup(pid, "Pss")


def anonymous_kib(pid: int) -> int:
    """The part of it that is no file's, and so does not change with what other processes map."""
    return _rollup(pid, "Pss_Anon")


def private_kib(pid: int) -> int:
    """What no other process maps, clean or changed; 0 as above."""
    return _rollup(pid, "Private_(?:Clean|Dirty)")


def _rollup(pid: int, names: str) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return sum(int(kib) for kib in re.findall(rf"^{names}:\s+(\d+) kB", text, re.MULTILINE))
