"""Reads a function's policy: which services, buckets and hosts it may use (docs/protocols.md)."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

from nexus.errors import NexusError

if TYPE_CHECKING:
    from pathlib import Path

_LISTS = ("services", "buckets", "egress")
_HINT = "a policy has the lists services, buckets and egress; docs/protocols.md describes them"


def read_policy(path: Path) -> dict[str, Any]:
    """The document in a file: TOML where its name ends so, else JSON. What is in the lists is checked by the node.

    :raises NexusError: it cannot be read, or is no policy.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise NexusError(f"the policy {path} cannot be read ({error.strerror})", _HINT) from error
    except ValueError as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise NexusError(f"the policy {path} is not {kind} ({error})", _HINT) from error
    if not isinstance(document, dict):
        raise NexusError(f"the policy {path} is no object", _HINT)
    for name, value in document.items():
        if name not in _LISTS:
            raise NexusError(f"the policy {path} has {name!r}, which no policy has", _HINT)
        if not isinstance(value, list):
            raise NexusError(f"{name} in the policy {path} is not a list", _HINT)
    return document
