"""What runs in the machine: a static nexus-vmm, static test programs, the first process."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from kernel import LaneError

if TYPE_CHECKING:
    from pathlib import Path

_TARGET = "x86_64-unknown-linux-gnu"


def vmm(repository: Path, cache: Path) -> Path:
    """A nexus-vmm that needs no shared library."""
    target = cache / "target"
    environment = {
        **os.environ,
        "CARGO_TARGET_DIR": str(target),
        "RUSTFLAGS": "-Ctarget-feature=+crt-static",
    }
    command = ["cargo", "build", "--quiet", "--release", "--locked", "-p", "nexus-vmm", "--target", _TARGET]
    _run(command, repository, environment)
    return target / _TARGET / "release" / "nexus-vmm"


def program(source: Path, cache: Path) -> Path:
    """A C program, linked statically."""
    binary = cache / "programs" / source.stem
    if not binary.exists() or binary.stat().st_mtime <= source.stat().st_mtime:
        binary.parent.mkdir(parents=True, exist_ok=True)
        _run(["gcc", "-O1", "-Wall", "-Werror", "-static", "-pthread", "-o", str(binary), str(source)], source.parent, None)
    return binary


def _run(command: list[str], where: Path, environment: dict[str, str] | None) -> None:
    try:
        result = subprocess.run(command, cwd=where, env=environment, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise LaneError(f"{command[0]} is missing") from error
    if result.returncode != 0:
        raise LaneError(f"{' '.join(command)} failed:\n{result.stderr}")
