"""The measurements' own arithmetic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from nexus.bench import cpu, memory, memory_bench, report

BURN = "import time; end = time.process_time() + {0}\nwhile time.process_time() < end: pass\n"


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_threads_that_ended_are_not_lost() -> None:
    before, before_living = cpu.process_ns(os.getpid()), cpu.schedstat_ns(os.getpid())
    thread = threading.Thread(target=burn, args=(0.2,))
    thread.start()
    thread.join()
    # `join` returns a moment before the kernel has taken the thread away.
    deadline = time.monotonic() + 10
    while Path(f"/proc/{os.getpid()}/task/{thread.native_id}").exists():
        assert time.monotonic() < deadline
    assert cpu.process_ns(os.getpid()) - before >= 190e6
    assert cpu.schedstat_ns(os.getpid()) - before_living < 150e6, "the thread's own account is gone"


def test_schedstat_and_clock_agree_for_a_process_whose_threads_live() -> None:
    code = BURN.format(0.3) + "print(flush=True); time.sleep(30)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        living, total = cpu.schedstat_ns(child.pid), cpu.process_ns(child.pid)
        child.kill()
    assert living >= 300e6
    assert abs(living - total) < 20e6


def test_ended_process_counts_nothing() -> None:
    assert cpu.process_ns(1 << 30) == 0
    assert memory.pss_kib(1 << 30) == 0


def test_children_are_found() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]) as child:
        assert child.pid in cpu.children(os.getpid())
        child.kill()


def test_pss_of_a_real_process_is_megabytes() -> None:
    assert 1024 < memory.pss_kib(os.getpid()) < 4 << 20


def test_private_memory_is_what_a_process_has_for_itself(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.write_bytes(bytes(48 << 20))
    program = (
        "import mmap, sys\n"
        "with open(sys.argv[1], 'r+b') as file:\n"
        "    common = mmap.mmap(file.fileno(), 0)\n"
        "    seen = sum(common[::4096])\n"
        "own = bytearray(int(sys.argv[2]))\n"
        "own[::4096] = b'x' * len(own[::4096])\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )

    def started(own_mib: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", program, str(shared), str(own_mib << 20)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    with started(0) as small, started(32) as large:
        kib = [memory.private_kib(process.pid) for process in (small, large)]
        assert all(
            memory.pss_kib(process.pid) - private > 20 << 10 for process, private in zip((small, large), kib, strict=True)
        )
        for process in (small, large):
            process.communicate()
    assert abs(kib[1] - kib[0] - (32 << 10)) < 2 << 10
    assert memory.private_kib(1 << 30) == 0


def test_what_s3_adds_is_the_difference_of_private_memory() -> None:
    using = memory_bench.Footprint(available=9.0, pss=5.0, private=2.5)
    without = memory_bench.Footprint(available=8.0, pss=4.0, private=1.75)
    assert [row.value for row in memory_bench.of_s3(using, without)] == [2.5, 1.75, 0.75]
    assert memory_bench.of_s3(using, memory_bench.Footprint(8.0, None, None)) == []


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, 5), (0.99, 10), (0.01, 1), (1.0, 10)])
def test_quantile_is_a_measured_value(fraction: float, expected: int) -> None:
    assert report.quantile(list(range(10, 0, -1)), fraction) == expected


def test_json_has_the_agreed_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [report.Row("first line p50", 2.0, "ms", 8.0), report.Row("alone", 1.0, "ms")]
    report.publish(report.Report("t", "b", rows, report.machine("kvm", "pvm"), ["n"]), tmp_path / "out.json")
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["rows"][0] == {"name": "first line p50", "value": 2.0, "unit": "ms", "baseline": 8.0, "ratio": 4.0}
    assert document["rows"][1]["ratio"] is None
    assert {"cpu", "cpus", "kernel", "isolation"} <= set(document["machine"])
    assert "first line p50" in capsys.readouterr().out
