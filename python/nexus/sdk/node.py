"""``Node``: a node of this machine, from Python."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from nexus import paths
from nexus.client import Client, service_error
from nexus.errors import FunctionError, NexusError
from nexus.node import credentials, launch
from nexus.packaging import deployment
from nexus.packaging.code import Source
from nexus.packaging.depot import Depot
from nexus.packaging.prune import prune

if TYPE_CHECKING:
    from types import TracebackType

    from nexus.node.record import NodeRecord

_OK = 200
# Initialising a function imports whatever it imports, within nexusd's own deadline.
_DEPLOY_TIMEOUT = 180.0


@dataclass(frozen=True)
class Invocation:
    """What one invocation gave.

    :param content: the result as it came: JSON, but for bytes that a handler returned.
    :param request_id: as in the function's log.
    :param log: the last 4 KiB of its log, where it was asked for.
    """

    content: bytes
    request_id: str
    log: str

    @property
    def payload(self) -> Any:
        """The decoded result.

        :raises NexusError: it is not JSON.
        """
        return _decoded(self.content)


@dataclass(frozen=True)
class LogPage:
    """A part of a function's log.

    :param content: as it was written.
    :param end: position behind it, for :meth:`Node.log_page`.
    """

    content: bytes
    end: int

    @property
    def start(self) -> int:
        """Position of its first byte."""
        return self.end - len(self.content)


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError) as error:
        raise NexusError(f"the result is not JSON ({error})", "Node.call gives it as it came, as content") from error


class Node:
    """A running node: deploy functions, invoke them, use its object store.

    ::

        with Node.start() as node:
            node.deploy("thumbnail.py:handler", requirements="requirements.txt")
            node.s3().create_bucket(Bucket="photos")
            print(node.invoke("thumbnail", {"bucket": "photos", "key": "cat.jpg"}))

    As a context manager it ends the node where it was made by :meth:`start`, and leaves it running where it was made by
    :meth:`connect`.
    """

    def __init__(self, state: Path, record: NodeRecord, *, owned: bool) -> None:
        self.state = state
        self.record = record
        self._owned = owned
        self.client = Client(record.url)

    @classmethod
    def start(cls, state: Path | str | None = None, **settings: Any) -> Node:
        """Start a node.

        :param state: directory to keep everything in; by default ``$NEXUS_STATE`` or ``~/.local/state/nexus``.
        :param settings: fields of :class:`nexus.node.launch.Settings`, such as ``port=0`` or ``isolation="process"``.
        :raises NexusError: one runs there already, or it did not come up.
        """
        home = paths.default_state() if state is None else Path(state).absolute()
        return cls(home, launch.up(home, launch.Settings(**settings)), owned=True)

    @classmethod
    def connect(cls, state: Path | str | None = None) -> Node:
        """The node that runs already with this state directory.

        :raises NexusError: none does.
        """
        home = paths.default_state() if state is None else Path(state).absolute()
        return cls(home, launch.find(home), owned=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._owned:
            self.stop()

    @property
    def url(self) -> str:
        """Endpoint of the Lambda API, for ``boto3.client("lambda", endpoint_url=...)``."""
        return self.record.url

    @property
    def store_url(self) -> str:
        """S3 endpoint of the local store."""
        return self.record.store_url

    def stop(self) -> None:
        """End the node."""
        launch.down(self.state)

    def status(self) -> dict[str, Any]:
        """Version, isolation and why, numbers of functions and instances."""
        return dict(self.client.call("GET", "/nexus/v1/status"))

    def deploy(self, source: str | Source, name: str | None = None, **options: Any) -> str:
        """Deploy a handler; its name. Deploying a name again replaces it.

        :param source: ``file.py:function`` or ``directory:module.function``.
        :param name: by default the name of the file or directory.
        :param options: fields of :class:`nexus.packaging.deployment.Options`.
        :raises ServiceError: its initialisation failed; ``body`` has the error as Lambda shapes it.
        :raises NexusError: the source, a requirement or an option cannot be used.
        """
        code = Source.parse(source) if isinstance(source, str) else source
        chosen = deployment.check_name(code.default_name if name is None else name)
        settings = deployment.Options(**options)
        if settings.requirements is not None:
            settings = replace(settings, requirements=Path(settings.requirements))
        depot = Depot(self.state)
        package = deployment.build(depot, code, settings)
        body = deployment.document(package, settings)
        self.client.call("PUT", f"/nexus/v1/functions/{chosen}", body, timeout=_DEPLOY_TIMEOUT)
        prune(depot, self.functions())
        return chosen

    def invoke(self, name: str, event: object = None) -> Any:
        """Call a function; what its handler returned.

        :param event: anything JSON can carry.
        :raises FunctionError: the handler raised, timed out or died.
        :raises ServiceError: there is no such function, or the node is at a limit.
        """
        return self.call(name, json.dumps(event).encode()).payload

    def call(self, name: str, payload: bytes, *, log: bool = False, timeout: float = 920.0) -> Invocation:
        """As :meth:`invoke`, with the event as sent and all of the answer.

        :param log: ask for the last 4 KiB of the invocation's log.
        :param timeout: seconds to wait, over the function's own time-out.
        """
        path = f"/2015-03-31/functions/{_quoted(name)}/invocations"
        headers = {"Content-Type": "application/json"}
        if log:
            headers["X-Amz-Log-Type"] = "Tail"
        status, reply, content = self.client.send("POST", path, payload, headers, timeout)
        if status != _OK:
            raise service_error(status, reply, content)
        tail = base64.b64decode(reply.get("x-amz-log-result", "")).decode("utf-8", "replace")
        if "x-amz-function-error" in reply:
            raise FunctionError(_decoded(content), tail)
        return Invocation(content, reply.get("x-amzn-requestid", ""), tail)

    def functions(self) -> list[dict[str, Any]]:
        """What is deployed."""
        return list(self.client.call("GET", "/nexus/v1/functions") or [])

    def instances(self) -> list[dict[str, Any]]:
        """What runs: ``id``, ``function``, ``pid``, ``state``, ``isolation``, ``invocations``, ``age_s``."""
        return list(self.client.call("GET", "/nexus/v1/instances") or [])

    def logs(self, name: str, lines: int = 100) -> str:
        """The last lines of a function's log."""
        return self.log_page(name, lines=lines).content.decode("utf-8", "replace")

    def log_page(self, name: str, *, lines: int = 100, after: int | None = None) -> LogPage:
        """A part of a function's log.

        :param lines: its last ones, at most 4 MiB, where ``after`` is not given.
        :param after: the position that it begins at, as :attr:`LogPage.end` gives it: at most 1 MiB, nothing at the log's end.
            Where what was there is kept no more, it begins with the oldest that is.
        """
        query = f"lines={lines}" if after is None else f"after={after}"
        status, headers, content = self.client.send("GET", f"/nexus/v1/functions/{_quoted(name)}/logs?{query}")
        if status != _OK:
            raise service_error(status, headers, content)
        return LogPage(content, int(headers["x-nexus-log-position"]))

    def timings(self, name: str, last: int = 100) -> list[dict[str, Any]]:
        """When the phases of the last invocations were, in nanoseconds of CLOCK_MONOTONIC."""
        return list(self.client.call("GET", f"/nexus/v1/functions/{_quoted(name)}/timings?last={last}") or [])

    def writes(self) -> dict[str, Any]:
        """Deferred writes: ``pending``, ``pending_bytes``, counts, and ``parked``, those that wait for a decision."""
        return dict(self.client.call("GET", "/nexus/v1/writes"))

    def counters(self, name: str) -> dict[str, float]:
        """A Prometheus counter of the node's by its ``outcome``, summed over everything else."""
        _, _, content = self.client.send("GET", "/metrics")
        sums: dict[str, float] = {}
        for found in re.finditer(
            rf'^{re.escape(name)}{{[^}}]*outcome="([^"]*)"[^}}]*}} (\S+)$', content.decode(), re.MULTILINE
        ):
            sums[found[1]] = sums.get(found[1], 0.0) + float(found[2])
        return sums

    def retry_write(self, number: int) -> None:
        """Do a parked write, whatever the object is by now.

        :raises ServiceError: there is none of this number.
        """
        self.client.call("POST", f"/nexus/v1/writes/{number}/retry")

    def forget_write(self, number: int) -> None:
        """Give a parked write up; its bytes are deleted.

        :raises ServiceError: there is none of this number.
        """
        self.client.call("DELETE", f"/nexus/v1/writes/{number}")

    def evict(self, name: str) -> int:
        """End a function's idle instances; how many there were."""
        return int(self.client.call("POST", f"/nexus/v1/functions/{_quoted(name)}/evict")["ended"])

    def delete(self, name: str) -> None:
        """Delete a function."""
        self.client.call("DELETE", f"/nexus/v1/functions/{_quoted(name)}")
        prune(Depot(self.state), self.functions())

    def s3(self, **options: Any) -> Any:
        """A boto3 client for the local store.

        :param options: passed on to ``boto3.client``.
        """
        return self._boto3("s3", self.store_url, options)

    def lambda_client(self, **options: Any) -> Any:
        """A boto3 client for the node's Lambda API, without retries."""
        from botocore.config import Config

        options.setdefault("config", Config(retries={"total_max_attempts": 1}, read_timeout=920))
        return self._boto3("lambda", self.url, options)

    def _boto3(self, service: str, endpoint: str, options: dict[str, Any]) -> Any:
        import boto3

        key, secret = credentials.load(self.state)
        session = boto3.Session(key, secret, region_name=self.record.region)
        return session.client(service, endpoint_url=endpoint, **options)


def _quoted(name: str) -> str:
    """A name as part of a path. Whether it is one is the node's to say."""
    return quote(name, safe="", errors="surrogateescape")
