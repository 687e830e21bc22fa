"""A guest that takes all memory it can get, fast, by many ways: the host never gives much more than the limit."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kvm

LIMIT = 64
# The hypervisor's own memory and files, 16 MiB of slack before the guest is ended, and what four threads touch meanwhile.
PEAK = LIMIT + 16 + 12 + 24

TOLD = ["small", "shared", "zero", "hidden", "remainder", "copies", "grown", "heap", "moved"]
ENDED = ["reserved", "stacks", "protected"]
BUFFERS = ["pipes", "sockets", "names"]


# A program's peak starts at that of who started it, and this process is large: so a small one starts it.
_SMALL = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
output = process.stdout.read().decode()
_, status, used = os.wait4(process.pid, 0)
json.dump([os.waitstatus_to_exitcode(status), used.ru_maxrss >> 10, output], sys.stdout)
"""


def grab(binaries: Path, hostile: Path, what: str) -> tuple[int, int, str]:
    """The guest's status, the hypervisor's peak memory in MiB, and its output."""
    threads = "1" if what == "heap" else "4"
    command = [binaries / "nexus-vmm", "run", "--memory", str(LIMIT), "--", hostile / "grab", what, threads]
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", _SMALL, *command], check=True, capture_output=True, text=True)
    status, peak, output = json.loads(ended.stdout)
    return status, peak, output


@pytest.mark.parametrize("what", TOLD)
def test_what_is_asked_for_is_refused_at_the_limit(binaries, hostile, what):
    status, peak, output = grab(binaries, hostile, what)
    assert status == 0, output
    assert int(output.split()[0]) >> 10 <= LIMIT
    assert peak <= PEAK


@pytest.mark.parametrize("what", ENDED)
def test_what_was_only_reserved_ends_the_guest_when_it_is_touched(binaries, hostile, what):
    status, peak, output = grab(binaries, hostile, what)
    assert status == 128 + 9, output
    assert f"used more than its {LIMIT} MiB" in output
    assert peak <= PEAK


@pytest.mark.parametrize("what", BUFFERS)
def test_what_is_held_for_it_outside_of_its_memory_is_counted(binaries, hostile, what):
    status, peak, output = grab(binaries, hostile, what)
    assert status == 0, output
    assert int(output.split()[0]) >> 10 <= LIMIT
    assert peak <= PEAK
