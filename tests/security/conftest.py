"""Hostile programs, built, and run in microVMs of their own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent.parent / "programs" / "hostile"
# The hypervisor's own statuses: it failed at something that the guest did, and said so.
STOPPED = 124


@dataclass(frozen=True)
class Ended:
    """How a guest came to its end."""

    status: int
    output: str

    @property
    def in_order(self) -> bool:
        """The guest ended by itself or by a signal, or the hypervisor stopped it with a reason."""
        if self.status == STOPPED:
            return "nexus-vmm" in self.output or "jail" in self.output
        return self.status >= 0


Attack = Callable[..., Ended]


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with the hostile programs, linked statically."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    directory = tmp_path_factory.mktemp("hostile")
    for source in sorted(SOURCES.glob("*.c")):
        # Without the red zone: attempts push onto the stack in the middle of a function.
        command = ["gcc", "-O1", "-mno-red-zone", "-static", "-pthread", "-o", str(directory / source.stem), str(source)]
        subprocess.run(command, check=True)
    return directory


@pytest.fixture(scope="session")
def attack(binaries: Path, hostile: Path) -> Attack:
    """Run a hostile program in a microVM.

    A hypervisor that hangs fails the test by its time-out; one that dies by a signal has a status below zero.
    """

    def run(program: str, *arguments: str, options: tuple[str, ...] = (), timeout: float = 60) -> Ended:
        command = [str(binaries / "nexus-vmm"), "run", "--memory", "256", *options, "--", str(hostile / program), *arguments]
        result = subprocess.run(command, capture_output=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL)
        return Ended(result.returncode, (result.stdout + result.stderr).decode("utf-8", "replace"))

    return run
