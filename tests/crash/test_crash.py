"""Nothing acknowledged is lost, nothing else is half visible, order is kept: a sample. `make crash` does a thousand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from crash.killable import Killable
from crash.model import run


@pytest.mark.parametrize("fault_rate", [0.0, 0.15])
def test_a_node_that_is_killed_keeps_its_word(tmp_path: Path, fault_rate: float) -> None:
    report = run(tmp_path, 10, 7, fault_rate=fault_rate)
    assert not report.problems, report
    assert report.kills == 10
    assert all(report.acknowledged.get(mode) for mode in ("sync", "commit", "journal")), report


def test_the_harness_sees_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose journal disappears with each kill loses what it acknowledged."""
    monkeypatch.setattr(Killable, "tear", lambda node, _: shutil.rmtree(node.directory / "state/journal", ignore_errors=True))
    report = run(tmp_path, 6, 3, fault_rate=0.4)
    assert any(text.startswith("lost: journal") for text in report.problems), report
