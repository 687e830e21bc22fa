"""Compiles Python trees ahead: a guest's files are read-only, so it could never keep its own bytecode."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from nexus.errors import NexusError

if TYPE_CHECKING:
    from pathlib import Path

_DEADLINE = 300


def compile_tree(python: Path, root: Path) -> None:
    """Compile every module below ``root`` with the interpreter that will run it.

    The bytecode is of the kind "unchecked hash" (PEP 552): the interpreter uses it without looking at the source's
    time, which saves a `stat` per import and survives copies. Files that do not compile are left: importing
    them gives the error where it belongs.
    """
    command = [str(python), "-I", "-m", "compileall", "-q", "-q", "-f", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    try:
        subprocess.run(
            [*command, str(root)],
            check=False,
            timeout=_DEADLINE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{root} could not be compiled with {python} ({error})"
        raise NexusError(message, "check that this interpreter runs") from error
