"""A function's requirements, installed once per requirements file and Python version."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

from nexus.errors import NexusError
from nexus.packaging.bytecode import compile_tree
from nexus.packaging.depot import Depot, text_digest

_DEADLINE = 600


def add_requirements(depot: Depot, file: Path, python: Path) -> Path:
    """Directory with everything that the requirements file names, to be put on the module path.

    :param python: the interpreter that will run the function; wheels are chosen for it.
    :raises NexusError: the file cannot be read or a package cannot be installed; the reason is in the text.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"the requirements file {file} cannot be read ({error})"
        raise NexusError(message, "check the path after --requirements") from error
    key = text_digest(text, python_version(python), platform.machine())

    def fill(directory: Path) -> None:
        _install(file, directory, python)
        compile_tree(python, directory)

    return depot.add("requirements", key, fill)


def python_version(python: Path) -> str:
    """``cpython-3.11.7`` and the like: what decides wheels and bytecode."""
    result = subprocess.run(
        [str(python), "-I", "-c", "import sys, platform; print(sys.implementation.name, platform.python_version())"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if result.returncode:
        raise NexusError(f"{python} does not run ({result.stderr.strip()[-300:]})", "name another Python with --python")
    return result.stdout.strip().replace(" ", "-")


def _install(file: Path, directory: Path, python: Path) -> None:
    result = subprocess.run(
        [*_installer(python), "--target", str(directory), "--requirement", str(file.absolute())],
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if result.returncode:
        lines = [line.strip() for line in result.stderr.strip().splitlines() if line.strip()]
        message = f"the requirements in {file} could not be installed ({' '.join(lines)[-800:]})"
        raise NexusError(message, "correct the file; its packages need wheels for this Python")
    shutil.rmtree(directory / "bin", ignore_errors=True)
    for leftover in (".lock", "_virtualenv.py"):
        (directory / leftover).unlink(missing_ok=True)


def _installer(python: Path) -> list[str]:
    """uv, which is among this package's dependencies, or else the interpreter's own pip."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv:
        # Copies: a hard link into uv's cache would change with it, and keeps the cache's modes.
        return [uv, "pip", "install", "--quiet", "--python", str(python), "--link-mode", "copy"]
    return [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
