"""QEMU: found, or installed where this user may install it."""

from __future__ import annotations

import os
import shutil
import subprocess

from kernel import LaneError

_PROGRAM = "qemu-system-x86_64"
_PACKAGE = "qemu-system-x86"


def find() -> str:
    """The emulator's path. As root it is installed by apt where it is missing.

    :raises LaneError: it is neither there nor to be had; the text says why.
    """
    found = shutil.which(_PROGRAM)
    if found:
        return found
    advice = f"{_PROGRAM} is missing: apt-get install --no-install-recommends {_PACKAGE}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LaneError(f"{advice} (it is not installed by itself: that takes root and apt)")
    print(f"hardware lane: installing {_PACKAGE}", flush=True)
    problem = _install()
    found = shutil.which(_PROGRAM)
    if not found:
        raise LaneError(f"{advice} (which was tried: {problem})")
    return found


def _install() -> str:
    """Install the package, with apt's lists as they are, then with fresh ones; what went wrong last."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    problem = "the package has no such program"
    for commands in (("install",), ("update", "install")):
        for word in commands:
            words = ["--yes", "--no-install-recommends", _PACKAGE] if word == "install" else []
            command = ["apt-get", "-q", word, *words]
            result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
            if result.returncode != 0:
                problem = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        if shutil.which(_PROGRAM):
            break
    return problem
