"""A node of the measurement's own, with the handler deployed and the same package at hand for the reference."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus import paths
from nexus.bench.plain import PlainProcess
from nexus.doctor.probe import probe
from nexus.errors import NexusError
from nexus.node import credentials
from nexus.node.launch import Settings
from nexus.node.processes import Process
from nexus.packaging import deployment
from nexus.packaging.code import Source
from nexus.packaging.depot import Depot
from nexus.sdk.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "bench"
SIZE = 64 << 10
_EVICTION_S = 20.0
# A directory of this node's own is made there.
_MEMORY = Path("/dev/shm")  # noqa: S108


@dataclass
class Session:
    """A running node.

    :param isolation: ``kvm`` or ``process``.
    :param kind: of KVM, such as ``pvm``; empty with ``process``.
    :param shells: that the node keeps ready.
    """

    node: Node
    isolation: str
    kind: str
    shells: int = Settings.shells

    def deploy(self, example: str, name: str, **options: Any) -> deployment.Package:
        """Deploy one of the examples; its package."""
        source = Source.parse(f"{examples() / example}:handler")
        self.node.deploy(source, name, **options)
        return deployment.build(Depot(self.node.state), source, deployment.Options(**options))

    def plain(self, package: deployment.Package) -> PlainProcess:
        """The same package in a plain process, with the real credentials and endpoint."""
        return PlainProcess(package, self.aws_environment())

    def aws_environment(self) -> dict[str, str]:
        """What a plain process needs to reach the store."""
        key, secret = credentials.load(self.node.state)
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": self.node.record.region,
            "AWS_DEFAULT_REGION": self.node.record.region,
            "AWS_ENDPOINT_URL_S3": self.node.store_url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def pids(self, name: str) -> list[int]:
        """Processes of a function's instances."""
        return [int(i["pid"]) for i in self.node.instances() if i["function"] == name and i.get("pid")]

    def evict(self, name: str) -> None:
        """End a function's idle instances and wait until their processes are gone, so that taking them down disturbs nothing.

        :raises NexusError: one did not end in time.
        """
        pids = self.pids(name)
        self.node.evict(name)
        deadline = time.monotonic() + _EVICTION_S
        while any(Process.of(pid) for pid in pids):
            if time.monotonic() > deadline:
                raise NexusError(
                    f"an evicted instance of {name} did not end within {_EVICTION_S:.0f} s", "look at the node's log"
                )
            time.sleep(0.002)

    def await_shells(self) -> None:
        """Wait until the node has made its shells again, where it keeps any.

        :raises NexusError: it did not in time.
        """
        deadline = time.monotonic() + _EVICTION_S
        while self.isolation == "kvm" and self.node.status()["shells"] < self.shells:
            if time.monotonic() > deadline:
                raise NexusError("the node does not make its shells", "look at the node's log")
            time.sleep(0.002)

    @property
    def daemon(self) -> int:
        """Process id of nexusd."""
        return self.node.record.processes["nexusd"].pid

    @property
    def store(self) -> int:
        """Process id of nexus-store."""
        return self.node.record.processes["nexus-store"].pid


@contextlib.contextmanager
def session(isolation: str, **settings: Any) -> Iterator[Session]:
    """Start a node with temporary state and a bucket with one object of 64 KiB; end it after.

    What the store keeps lies in memory: S3 is at the other end of what is measured, and a disk's flushes are not the node's.

    :param isolation: with ``auto``, ``process`` where microVMs do not run, and a warning says so.
    """
    chosen, kind, warning = choose(isolation)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    with (
        tempfile.TemporaryDirectory(prefix="nexus-bench-") as state,
        tempfile.TemporaryDirectory(prefix="nexus-bench-", dir=_MEMORY if _MEMORY.is_dir() else None) as store,
        Node.start(state, port=0, store_port=0, store_directory=Path(store), isolation=chosen, **settings) as node,
    ):
        s3 = node.s3()
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="in", Body=bytes(range(256)) * (SIZE // 256))
        yield Session(node, chosen, kind, settings.get("shells", Settings.shells))


def choose(isolation: str) -> tuple[str, str, str]:
    """The isolation to use, the kind of KVM, and a warning (or an empty text).

    :raises NexusError: ``kvm`` was asked for by name and does not work.
    """
    if isolation == "process":
        return "process", "", ""
    answer = probe()
    if answer.works:
        return "kvm", answer.machine, ""
    if isolation == "kvm":
        raise NexusError(f"microVMs do not run here: {answer.reason}", "see `nexus doctor`")
    return "process", "", f"microVMs do not run here ({answer.reason}): jailed processes are used; see `nexus doctor`"


def examples() -> Path:
    """Directory of the example handlers.

    :raises NexusError: there is none beside the package, nor in the working directory.
    """
    package = Path(paths.__file__).parent
    for place in (package / "_examples", package.parent.parent / "examples", Path.cwd() / "examples"):
        if (place / "thumbnail.py").is_file():
            return place
    raise NexusError("the example handlers are not here", "run this in a clone of the project")
