"""What runs in the machine: a static nexus-vmm, static test programs, the first process."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from kernel import LaneError

_TARGET = "x86_64-unknown-linux-gnu"


def vmm(repository: Path) -> Path:
    """A nexus-vmm that needs no shared library: as it is shipped."""
    target, environment = _target()
    _run(["sh", "tools/static.sh", "build", "--quiet", "-p", "nexus-vmm"], repository, environment)
    return target / _TARGET / "release" / "nexus-vmm"


def machine_tests(repository: Path) -> Path:
    """The microVM's own tests (crates/nexus-vmm/tests/machine.rs), likewise."""
    _, environment = _target()
    command = ["sh", "tools/static.sh", "test", "--quiet", "-p", "nexus-vmm"]
    command += ["--test", "machine", "--no-run", "--message-format", "json"]
    for line in _run(command, repository, environment).splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "machine":
            return Path(message["executable"])
    raise LaneError("cargo built no test called machine")


def _target() -> tuple[Path, dict[str, str]]:
    """The target directory of `make setup`, and an environment that names it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or Path.home() / ".cache" / "nexus" / "target")
    return target, {**os.environ, "CARGO_TARGET_DIR": str(target)}


def program(source: Path, cache: Path) -> Path:
    """A C program, linked statically."""
    binary = cache / "programs" / source.stem
    if not binary.exists() or binary.stat().st_mtime <= source.stat().st_mtime:
        binary.parent.mkdir(parents=True, exist_ok=True)
        # Without the red zone: hostile programs push onto the stack in the middle of a function.
        flags = ["-O1", "-Wall", "-Werror", "-mno-red-zone", "-static", "-pthread"]
        _run(["gcc", *flags, "-o", str(binary), str(source)], source.parent, None)
    return binary


def _run(command: list[str], where: Path, environment: dict[str, str] | None) -> str:
    try:
        result = subprocess.run(command, cwd=where, env=environment, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise LaneError(f"{command[0]} is missing") from error
    if result.returncode != 0:
        raise LaneError(f"{' '.join(command)} failed:\n{result.stderr}")
    return result.stdout
