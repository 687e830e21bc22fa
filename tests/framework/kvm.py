"""Whether microVMs run here, asked of the hypervisor itself."""

from __future__ import annotations

import os
from functools import cache

import pytest


@cache
def reason_missing() -> str | None:
    """Why microVMs do not run on this machine; None where they do."""
    from nexus.doctor.probe import probe

    answer = probe()
    return None if answer.works else answer.reason


def require() -> None:
    """Skip the running test where microVMs do not run; fail it where ``NEXUS_REQUIRE_KVM`` is set."""
    reason = reason_missing()
    if reason is None:
        return
    if os.environ.get("NEXUS_REQUIRE_KVM") == "1":
        pytest.fail(f"NEXUS_REQUIRE_KVM=1, but microVMs do not run here: {reason}")
    pytest.skip(f"microVMs do not run here: {reason}")
