"""Daemons are ended by identity, not by number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from nexus.node import processes
from nexus.node.processes import Process

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)",
]


def test_daemon_is_started_detached_and_ended(tmp_path: Path) -> None:
    process = processes.start(SLEEPER, tmp_path / "logs" / "sleeper.log")
    assert process.alive()
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[3]) == process.pid, "it leads a session of its own"
    assert process.end()
    assert not process.alive()
    assert not process.end()


def test_a_process_that_only_shares_the_number_is_left_alone() -> None:
    with subprocess.Popen(SLEEPER) as foreign:
        genuine = Process.of(foreign.pid)
        assert genuine is not None
        recorded = Process(foreign.pid, genuine.started - 1)
        assert not recorded.alive()
        assert not recorded.end()
        assert foreign.poll() is None
        foreign.kill()


def test_who_ignores_sigterm_gets_sigkill(tmp_path: Path) -> None:
    log = tmp_path / "stubborn.log"
    process = processes.start(STUBBORN, log)
    while "ready" not in log.read_text():
        assert process.alive()
    assert process.end(grace=0.2)


def test_ended_process_has_no_identity() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait(30)
        assert Process.of(child.pid) is None


@pytest.mark.parametrize("pid", [0, -1, 1 << 30])
def test_impossible_ids_are_no_processes(pid: int) -> None:
    assert Process.of(pid) is None
