"""Where things are: the node's binaries and its state."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from nexus.errors import NexusError

BINARIES = ("nexusd", "nexus-vmm", "nexus-store")


def binary(name: str) -> Path:
    """Path of one of the Rust binaries.

    ``$NEXUS_BIN`` is searched first, then the package, then the scripts beside the running Python (where a wheel
    puts ``nexusd``).

    :raises NexusError: it is in none of them.
    """
    places = [Path(__file__).parent / "_bin", Path(sysconfig.get_path("scripts"))]
    chosen = os.environ.get("NEXUS_BIN")
    if chosen:
        places.insert(0, Path(chosen))
    for place in places:
        path = place / name
        if os.access(path, os.X_OK):
            return path
    raise NexusError(
        f"the program {name} is not in {' nor '.join(str(p) for p in places)}",
        "run `make setup` in the clone, or install the wheel again",
    )


def default_state() -> Path:
    """State directory: ``$NEXUS_STATE``, else ``~/.local/state/nexus``."""
    chosen = os.environ.get("NEXUS_STATE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "nexus"
