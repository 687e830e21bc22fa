"""A node for tests: temporary state, free ports, and shorthands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.config import Config
from nexus import Node
from nexus.node import credentials, launch
from nexus.packaging.code import Source

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class TestNode:
    """A running node.

    :param isolation: ``kvm`` or ``process``.
    :param endpoint: URL of the Lambda and admin API.
    :param store_endpoint: URL of the S3 store.
    :param credentials: ``access_key_id`` and ``secret_access_key`` of the store.
    :param lambda_client: boto3, no retries.
    :param s3: boto3, on the store.
    """

    __test__ = False

    isolation: str
    state: Path
    endpoint: str
    store_endpoint: str
    credentials: dict[str, str]
    lambda_client: Any
    s3: Any
    nexus: Node

    @classmethod
    def start(cls, state: Path, isolation: str, **settings: Any) -> TestNode:
        """Start one with its state in ``state``."""
        nexus = Node.start(state, port=0, store_port=0, isolation=isolation, **settings)
        try:
            key, secret = credentials.load(state)
            return cls(
                isolation=isolation,
                state=state,
                endpoint=nexus.url,
                store_endpoint=nexus.store_url,
                credentials={"access_key_id": key, "secret_access_key": secret},
                lambda_client=nexus.lambda_client(config=Config(retries={"total_max_attempts": 1}, read_timeout=60)),
                s3=nexus.s3(),
                nexus=nexus,
            )
        except BaseException:
            nexus.stop()
            raise

    def close(self) -> None:
        """End it."""
        self.nexus.stop()

    def deploy(self, name: str, path: Path | str, handler: str = "handler", **options: Any) -> None:
        """Deploy a handler's file, or a directory with ``handler`` as ``module.function``."""
        location = type(self.state)(path)
        full = handler if location.is_dir() else f"{location.stem}.{handler}"
        self.nexus.deploy(Source(location, full), name, **options)

    @property
    def kept(self) -> Path:
        """What nexusd keeps. (To be looked into by exact paths: a search meets what is being deleted.)"""
        return self.state / "nexusd"

    def invoke(self, name: str, event: object) -> tuple[Any, dict[str, Any]]:
        """Invoke through boto3: the decoded payload, and the whole response."""
        response = self.lambda_client.invoke(FunctionName=name, Payload=json.dumps(event).encode(), LogType="Tail")
        content = response["Payload"].read()
        return (json.loads(content) if content else None), response

    def logs(self, name: str) -> str:
        """The last thousand lines of a function's log."""
        return self.nexus.logs(name, 1000)

    def admin(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """A raw call of the admin API: status, and JSON or text."""
        content = None if body is None else json.dumps(body).encode()
        status, headers, answer = self.nexus.client.send(
            method, path, content, {"Content-Type": "application/json"}, timeout=60
        )
        if "json" in headers.get("content-type", ""):
            return status, json.loads(answer)
        return status, answer.decode()

    def stop_store(self) -> None:
        """End the store; nexusd goes on."""
        self.nexus.record.processes["nexus-store"].end()

    def start_store(self) -> None:
        """Start it again, at the same address."""
        self.nexus.record = launch.restart_store(self.state)
