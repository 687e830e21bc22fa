"""The base: a snapshot of the runtime with the SDK loaded and no function, which functions are initialised from.

A process of the base becomes a function's by taking that function's environment. What that cannot make good, since it
acts before any Python code runs, the node keeps away from a base (crates/nexusd/src/scheduler/bases.rs); what only the
function's files tell is found here.
"""

import os
import sys
from collections.abc import Iterable

from ..device import Channel
from . import modules, prepare, renewal

# Found by `site` when the interpreter starts.
_AT_START = frozenset({"sitecustomize", "usercustomize"})


class Unsuitable(Exception):
    """The function has to be initialised without the base."""


def wanted() -> bool:
    """Whether this process is to be a base: it has no handler."""
    return os.environ.get("_HANDLER") == ""


def take(channel: Channel, tracker: renewal.Tracker) -> None:
    """Become a base; returns in each function that goes on from it, with the function's environment.

    Raises Unsuitable.
    """
    prepare.shims()
    prepare.rehearse()
    renew = tracker.hooks()
    prepare.settle()
    channel.snapshot()
    renewal.run(renew)
    channel.renewed()
    known = modules.listed()
    _take_environment()
    new = [entry for entry in modules.listed() if entry not in known]
    _check((os.environ["LAMBDA_TASK_ROOT"], *new))


def _take_environment() -> None:
    with open("/proc/self/environ", "rb") as file:
        pairs = dict(item.split(b"=", 1) for item in file.read().split(b"\0") if b"=" in item)
    for name in [name for name in os.environb if name not in pairs]:
        del os.environb[name]
    os.environb.update(pairs)


def _check(directories: Iterable[str]) -> None:
    """Raise Unsuitable where the function brings a module of its own under the name of one that is loaded already."""
    for name, path in modules.brought(directories):
        if name in sys.modules or name in _AT_START:
            raise Unsuitable(f"{path} is to be imported instead of a module that the base has")
