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
from nexus.bench import cpu, memory, report

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
