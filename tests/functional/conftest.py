"""Fixtures of the commands' tests."""

from __future__ import annotations

import pytest
from framework import kvm


@pytest.fixture(params=["kvm", "process"])
def isolation(request: pytest.FixtureRequest) -> str:
    """Each kind of isolation that works here."""
    if request.param == "kvm":
        kvm.require()
    return str(request.param)
