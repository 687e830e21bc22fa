"""The base: a snapshot of the runtime with the SDK loaded and no function, which functions are initialised from.

A process of the base becomes a function's by taking that function's environment. What that cannot make good, since it
acts before any Python code runs, the node keeps away from a base (crates/nexusd/src/scheduler/bases.rs); what only the
function's files tell is found here.
"""

import importlib
import os
import sys
from collections.abc import Iterable

from ..device import Channel
from . import prepare, renewal

# Found by `site` when the interpreter starts.
_AT_START = frozenset({"sitecustomize", "usercustomize"})


class Unsuitable(Exception):
    """The function has to be initialised without the base."""


def wanted() -> bool:
    """Whether this process is to be a base: it has no handler."""
    return os.environ.get("_HANDLER") == ""


def take(channel: Channel, tracker: renewal.Tracker) -> None:
    """Become a base; returns in each function that goes on from it, with the function's environment and import path.

    Raises Unsuitable.
    """
    prepare.task_root()
    prepare.shims()
    prepare.rehearse()
    renew = tracker.hooks()
    prepare.settle()
    channel.snapshot()
    renewal.run(renew)
    channel.renewed()
    known = _path()
    _take_environment()
    new = [entry for entry in _path() if entry not in known]
    task_root = os.environ["LAMBDA_TASK_ROOT"]
    _check((task_root, *new))
    sys.path[:] = _path() + [entry for entry in sys.path if entry not in known]
    # What was not there for the base may be there now.
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def _path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _take_environment() -> None:
    with open("/proc/self/environ", "rb") as file:
        pairs = dict(item.split(b"=", 1) for item in file.read().split(b"\0") if b"=" in item)
    for name in [name for name in os.environb if name not in pairs]:
        del os.environb[name]
    os.environb.update(pairs)


def _check(directories: Iterable[str]) -> None:
    """Raise Unsuitable where the function brings a module of its own under the name of one that is loaded already."""
    for directory in directories:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in names:
            module, dot, kind = name.partition(".")
            if module not in sys.modules and module not in _AT_START:
                continue
            if kind.endswith(("py", "pyc", "so")) or (not dot and os.path.isdir(os.path.join(directory, name))):
                raise Unsuitable(f"{os.path.join(directory, name)} is to be imported instead of a module that the base has")
