"""Nexus: serverless functions in KVM microVMs whose I/O is done by the host.

The public interface is :class:`Node`; everything else is used through it or through the ``nexus`` command.
Names are resolved on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexus.errors import FunctionError, NexusError
    from nexus.sdk.node import Invocation, Node

__all__ = ["FunctionError", "Invocation", "NexusError", "Node", "__version__"]
__version__ = "0.1.0"

_HOMES = {
    "FunctionError": "nexus.errors",
    "Invocation": "nexus.sdk.node",
    "NexusError": "nexus.errors",
    "Node": "nexus.sdk.node",
}


def __getattr__(name: str) -> object:
    import importlib

    home = _HOMES.get(name)
    if home is None:
        message = f"module 'nexus' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(home), name)
