"""Fixtures for all tests: the built binaries, nodes with either isolation, S3 and Lambda clients.

Where /dev/kvm does not work, the kvm variants of tests are skipped and one line says so. ``NEXUS_REQUIRE_KVM=1`` makes
that a failure instead.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from framework import kvm
from framework.node import TestNode

if TYPE_CHECKING:
    from collections.abc import Iterator

# The boto3 layer and requirements are packaged once for all nodes of all runs.
os.environ.setdefault("NEXUS_PACKAGES", str(Path.home() / ".cache" / "nexus" / "packages"))
# The figures of a benchmark that a test runs are nobody's: beside other tests memory does not settle.
os.environ.setdefault("NEXUS_BENCH_PATIENCE", "1")


@pytest.fixture(scope="session")
def binaries() -> Path:
    """Directory with nexusd, nexus-vmm and nexus-store."""
    from nexus import paths

    return paths.binary("nexus-vmm").parent


@pytest.fixture(scope="module", params=["kvm", "process"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    """A node of the module's own with each kind of isolation, on free ports, with a state of its own."""
    if request.param == "kvm":
        kvm.require()
    node = TestNode.start(tmp_path_factory.mktemp("node"), request.param)
    try:
        yield node
    finally:
        node.close()


@pytest.fixture(scope="session")
def handlers() -> Path:
    """Directory with the handlers that tests deploy."""
    return Path(__file__).parent / "handlers"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("node") == "kvm":
            item.add_marker(pytest.mark.kvm)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kvm"):
        kvm.require()


_kvm_passed: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed and "kvm" in report.keywords:
        _kvm_passed.append(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reason = kvm.reason_missing()
    if reason is None:
        terminalreporter.write_line(f"KVM tests passed: {len(_kvm_passed)}")
    else:
        terminalreporter.write_line(f"KVM tests not run, microVMs do not work here: {reason}")
