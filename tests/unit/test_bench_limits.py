"""What of a machine ends first is told before thousands of instances are started."""

from __future__ import annotations

import os
import resource
import subprocess

import pytest
from nexus.bench import limits
from nexus.errors import NexusError

PLENTY_KIB = 1 << 30


def test_a_few_instances_fit() -> None:
    limits.check(1, os.getpid(), PLENTY_KIB)


@pytest.mark.parametrize(
    ("instances", "available_kib", "what"),
    [(10_000_000, PLENTY_KIB, "tasks"), (1, 0, "MiB of available memory")],
)
def test_what_is_missing_is_named(instances: int, available_kib: int, what: str) -> None:
    with pytest.raises(NexusError, match=f"{instances} instances need .*{what}; this machine has"):
        limits.check(instances, os.getpid(), available_kib)


def test_descriptors_are_counted_as_a_node_keeps_them() -> None:
    most = 4 * 1000 + limits.OTHER_FILES
    with subprocess.Popen(["sleep", "60"]) as daemon:
        try:
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (most, most))
            limits.check(1000, daemon.pid, PLENTY_KIB)
            with pytest.raises(NexusError, match="1001 instances need .* open files of nexusd"):
                limits.check(1001, daemon.pid, PLENTY_KIB)
        finally:
            daemon.kill()
