"""Nothing acknowledged is lost, nothing else is half visible, order is kept: a sample. `make crash` does a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from crash.model import run


@pytest.mark.parametrize("fault_rate", [0.0, 0.15])
def test_a_node_that_is_killed_keeps_its_word(tmp_path: Path, fault_rate: float) -> None:
    report = run(tmp_path, 10, 7, fault_rate=fault_rate)
    assert not report.problems, report
    assert report.kills == 10
    assert all(report.acknowledged.get(mode) for mode in ("sync", "commit", "journal")), report
