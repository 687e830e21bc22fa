"""Credentials of the local store: random, made once per state directory, readable by their owner only."""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING

from nexus.errors import NexusError

if TYPE_CHECKING:
    from pathlib import Path

_PRIVATE = 0o600


def ensure(state: Path) -> Path:
    """Path of ``credentials.json``, made where it is missing."""
    path = state / "credentials.json"
    if path.exists():
        path.chmod(_PRIVATE)
        return path
    document = {
        "access_key_id": "NX" + secrets.token_hex(9).upper(),
        "secret_access_key": secrets.token_urlsafe(30),
    }
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file)
    temporary.replace(path)
    return path


def load(state: Path) -> tuple[str, str]:
    """Access key id and secret of the local store.

    :raises NexusError: there are none, or they cannot be read.
    """
    path = state / "credentials.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return str(document["access_key_id"]), str(document["secret_access_key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"the store's credentials in {path} cannot be read ({error})"
        raise NexusError(message, "run `nexus up`, as the user who owns the node") from error
