"""The record of a running node, ``node.json`` in its state directory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from nexus.errors import NexusError
from nexus.node.processes import Process

if TYPE_CHECKING:
    from pathlib import Path

STATE_HINT = "name another with --state or NEXUS_STATE"


@dataclass(frozen=True)
class NodeRecord:
    """What ``nexus up`` leaves behind for the other commands.

    :param url: Lambda API and admin API.
    :param store_url: S3 endpoint of the local store.
    :param region: region that functions and clients are told.
    :param isolation: the isolation asked for at the start.
    :param processes: ``nexusd`` and ``nexus-store``, by name.
    """

    url: str
    store_url: str
    region: str
    isolation: str
    processes: dict[str, Process]

    def alive(self) -> bool:
        """Whether any of its processes runs."""
        return any(process.alive() for process in self.processes.values())

    def save(self, state: Path) -> None:
        """Write it, atomically."""
        temporary = state / "node.json.new"
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        temporary.replace(_path(state))

    @classmethod
    def load(cls, state: Path) -> NodeRecord | None:
        """Read it; None where there is none.

        :raises NexusError: the file is damaged.
        """
        path = _path(state)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            fields["processes"] = {name: Process(**p) for name, p in fields["processes"].items()}
            return cls(**fields)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise NexusError(f"the state directory {state} is not a directory", STATE_HINT) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{path} cannot be read ({error})"
            raise NexusError(message, "end leftover nexusd and nexus-store processes, then delete the file") from error

    @staticmethod
    def forget(state: Path) -> None:
        """Delete it."""
        _path(state).unlink(missing_ok=True)


def _path(state: Path) -> Path:
    return state / "node.json"
