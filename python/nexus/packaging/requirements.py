"""A function's requirements, installed once per Python version and what decides which packages they are."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from nexus.errors import NexusError
from nexus.packaging import requirement_files
from nexus.packaging.bytecode import compile_tree
from nexus.packaging.depot import Depot, normalise, text_digest, tree_digest

_DEADLINE = 600


def add_requirements(depot: Depot, file: Path, python: Path) -> Path:
    """Directory with everything that the requirements file names, to be put on the module path.

    :param python: the interpreter that will run the function; wheels are chosen for it.
    :raises NexusError: the file cannot be read or a package cannot be installed; the reason is in the text.
    """
    outcome = requirement_files.outcome(file)

    def fill(directory: Path) -> None:
        _install(file, directory, python, local=outcome.local)
        compile_tree(python, directory)

    if outcome.digest is not None:
        return depot.add("requirements", text_digest(outcome.digest, python_version(python), platform.machine()), fill)
    # Named by what came of it, then: the same packages are one directory, and others another one.
    with TemporaryDirectory(prefix="nexus-requirements-") as name:
        installed = Path(name) / "installed"
        installed.mkdir()
        _install(file, installed, python, local=True)

        def take(directory: Path) -> None:
            shutil.copytree(installed, directory, symlinks=True, dirs_exist_ok=True)
            compile_tree(python, directory)

        normalise(installed)
        return depot.add("requirements", text_digest(tree_digest(installed), python_version(python)), take)


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


def _install(file: Path, directory: Path, python: Path, *, local: bool) -> None:
    command = [*_installer(python, local=local), "--target", str(directory), "--requirement", str(file.absolute())]
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DEADLINE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        message = f"the requirements in {file} were not installed within {_DEADLINE} s"
        raise NexusError(message, "check the network, or deploy again: what was fetched is kept") from error
    if result.returncode:
        lines = [line.strip() for line in result.stderr.strip().splitlines() if line.strip()]
        message = f"the requirements in {file} could not be installed ({' '.join(lines)[-800:]})"
        raise NexusError(message, "correct the file; its packages need wheels for this Python")
    shutil.rmtree(directory / "bin", ignore_errors=True)
    for leftover in (".lock", "_virtualenv.py"):
        (directory / leftover).unlink(missing_ok=True)


def _installer(python: Path, *, local: bool) -> list[str]:
    """uv, which is among this package's dependencies, or else the interpreter's own pip."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv:
        # Copies: a hard link into uv's cache would change with it, and keeps the cache's modes.
        command = [uv, "pip", "install", "--quiet", "--python", str(python), "--link-mode", "copy"]
        # Its cache knows a package of a directory by its version, and a directory that is built by some of its files.
        return [*command, "--refresh"] if local else command
    return [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
