"""Runs the ``nexus`` command as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(
    *arguments: str, state: Path | None = None, stdin: str | None = None, timeout: float = 100
) -> subprocess.CompletedProcess[str]:
    """Run ``nexus ARGUMENTS``; output and status, whatever it is."""
    environment = dict(os.environ)
    if state is not None:
        environment["NEXUS_STATE"] = str(state)
    return subprocess.run(
        [sys.executable, "-m", "nexus.cli.main", *arguments],
        env=environment,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
