"""Runs one module of a package's own tests as a function would run it: in this process, where the shims are."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import pytest

# Lambda's limit for a result is 6 MiB; what counts is at the end.
_KEPT = 1 << 20


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """The exit status of pytest with the event's words, and the end of what it printed."""
    os.chdir(Path(__file__).parent)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = int(pytest.main([*event["words"], "--basetemp=/tmp/pytest"]))
    return {"status": status, "text": output.getvalue()[-_KEPT:]}
