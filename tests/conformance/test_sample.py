"""A sample of CPython's own regression tests, each module in a microVM of its own. `make conformance` runs all of them."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

_TOOL = Path(__file__).resolve().parents[2] / "tools" / "conformance"
sys.path.insert(0, str(_TOOL))

import expectations
import runner
import suites

_EXPECTED = expectations.load("cpython")


@pytest.fixture(scope="module")
def outcomes(binaries: Path) -> dict[str, Any]:
    """All modules of the sample, two at a time."""
    try:
        suite = suites.load("cpython")
    except suites.SuiteMissingError as error:
        pytest.skip(f"CPython's tests cannot be had here: {error}")
    if suite.version != _EXPECTED.version:
        pytest.skip(f"the expectations are for CPython {_EXPECTED.version}, and this is {suite.version}")
    place = runner.Place(binaries / "nexus-vmm", suite.roots)
    logs = suites.CACHE / "logs" / "sample"

    def one(module: str) -> runner.Outcome:
        command = suite.command(module, _EXPECTED.ignored(module))
        return runner.run(place, command, suite.environment, logs / f"{module}.log", 100)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(_EXPECTED.sample, pool.map(one, _EXPECTED.sample), strict=True))


@pytest.mark.kvm
@pytest.mark.timeout(400)
@pytest.mark.parametrize("module", _EXPECTED.sample)
def test_module_passes_inside(module: str, outcomes: dict[str, Any]) -> None:
    outcome = outcomes[module]
    assert outcome.status == "pass", outcome
    assert outcome.tests > 0


@pytest.mark.parametrize("suite", ["cpython", "numpy", "pillow"])
def test_expectations_are_consistent(suite: str) -> None:
    expected = expectations.load(suite)
    assert expected.passing
    assert all(len(reason) > 10 for reason in expected.reasons.values())


_REGRTEST = """
FAIL: test_one (test.test_thing.ThingTest.test_one)
ERROR: test_two (test.test_thing.ThingTest.test_two) (code=3)
ERROR: setUpClass (test.test_thing.OtherTest)
Ran 12 tests in 0.1s
FAILED (failures=1, errors=2)
Total tests: run=1,012 failures=1
"""


def test_what_a_module_printed_is_understood() -> None:
    outcome = runner.judge(2, _REGRTEST, 1.0)
    assert (outcome.status, outcome.tests) == ("fail", 1012)
    assert outcome.failed == (
        "test.test_thing.OtherTest.setUpClass",
        "test.test_thing.ThingTest.test_one",
        "test.test_thing.ThingTest.test_two",
    )


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (0, "Ran 3 tests in 0.1s\nOK", "pass"),
        (0, "Total tests: run=0\n", "skip"),
        (4, "test_thing skipped -- no network\nTotal tests: run=0\n", "skip"),
        (1, "Traceback (most recent call last)\n", "fail"),
        (None, "test_hangs ... ", "timeout"),
        (0, "FAILED x\n3 passed, 1 skipped in 0.20s", "pass"),
        (1, "FAILED tests/test_a.py::test_b - boom\n1 failed, 3 passed in 0.20s", "fail"),
    ],
)
def test_status_follows_what_ran(status: int | None, text: str, expected: str) -> None:
    assert runner.judge(status, text, 0.0).status == expected


def test_a_module_is_run_on_the_host_and_ended_at_its_limit(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    outcome = runner.run(runner.Place(None), program, {}, tmp_path / "log", 1.0)
    assert outcome.status == "timeout"
    assert outcome.seconds < 20
    assert "begun" in (tmp_path / "log").read_text()
