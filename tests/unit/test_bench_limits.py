"""What of a machine ends first is told before thousands of instances are started."""

from __future__ import annotations

import os

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
