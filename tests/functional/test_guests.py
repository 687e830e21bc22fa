"""Guests other than the host's own CPython say the same in a microVM as on the host."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from framework.cli import run

pytestmark = pytest.mark.kvm

_SOURCES = Path(__file__).parents[1] / "programs" / "guests"


def _tool(name: str, package: str) -> str:
    """A program of the host's; the test is skipped where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


def _same(program: list[str], *options: str) -> list[str]:
    """Lines that a program prints on the host, once it has printed the same in a microVM."""
    native = subprocess.run(program, capture_output=True, text=True, timeout=100, check=True)
    inside = run("run", *options, "--", *program)
    assert (inside.returncode, inside.stdout) == (0, native.stdout), inside.stderr
    return native.stdout.splitlines()


def _is_fixed(program: Path) -> bool:
    """Whether an ELF program is linked to run at one address (e_type, elf(5))."""
    with program.open("rb") as file:
        return file.read(18)[16] == 2


def test_debians_python_which_is_not_position_independent() -> None:
    debian = Path("/usr/bin/python3")
    if not debian.exists() or not _is_fixed(debian.resolve()):
        pytest.skip("no /usr/bin/python3 that is linked to a fixed address: apt-get install python3-minimal")
    program = (
        "import os, subprocess, sys, threading\n"
        "thread = threading.Thread(target=print, args=(6 * 7,)); thread.start(); thread.join()\n"
        "print(sys.version_info[:2], subprocess.check_output(['/bin/echo', 'child']), flush=True)\n"
        "if os.fork() == 0: os._exit(5)\n"
        "print(os.wait()[1] >> 8)"
    )
    assert len(_same([str(debian), "-I", "-S", "-c", program])) == 3


def test_a_static_program_of_musl(tmp_path: Path) -> None:
    program = tmp_path / "musl"
    compiler = _tool("musl-gcc", "musl-tools")
    subprocess.run([compiler, "-O1", "-static", "-o", str(program), str(_SOURCES / "musl.c")], check=True, timeout=60)
    assert _same([str(program)], "--ro", str(tmp_path))[-1] == "shell POPEN"


def test_go_with_its_collector_timers_and_preemption(tmp_path: Path) -> None:
    program = tmp_path / "guest"
    surroundings = os.environ | {"GOCACHE": str(tmp_path / "cache"), "CGO_ENABLED": "0", "GO111MODULE": "off"}
    command = [_tool("go", "golang-go"), "build", "-o", str(program), str(_SOURCES / "guest.go")]
    subprocess.run(command, check=True, env=surroundings, timeout=110)
    assert "preempted" in _same([str(program)], "--ro", str(tmp_path))


def test_node_with_timers_promises_and_workers() -> None:
    node = _tool("node", "nodejs")
    assert "worker 42" in _same([node, str(_SOURCES / "guest.js")], "--memory", "512", "--ro", str(_SOURCES))
