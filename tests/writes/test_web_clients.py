"""A web client with a presigned URL waits for what is pending on the node, as the SDK does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from framework import kvm
from framework.node import TestNode
from nexus.node import launch

BUCKET = "bucket"
# How long a PUT takes that is held up.
HELD_UP_S = 1.0

HANDLER = """
import http.client
import urllib.parse

import boto3

s3 = boto3.client("s3")

def handler(event, context):
    where = {"Bucket": "bucket", "Key": event["key"]}
    if event["by"] == "boto3":
        return s3.put_object(**where, Body=event["body"].encode())["ResponseMetadata"]["HTTPStatusCode"]
    parts = urllib.parse.urlsplit(s3.generate_presigned_url(event["by"], Params=where))
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    method = "PUT" if event["by"] == "put_object" else "GET"
    connection.request(method, f"{parts.path}?{parts.query}", event.get("body", "").encode() or None)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()
"""


class Way:
    """The way to the store, on which PUTs may be held up."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def lead_to(self, store: str) -> str:
        host, _, port = store.removeprefix("http://").rpartition(":")
        threading.Thread(target=self._accept, args=(host, int(port)), daemon=True).start()
        return self.url

    def _accept(self, host: str, port: int) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._both, args=(client, (host, port)), daemon=True).start()

    def _both(self, client: socket.socket, store: tuple[str, int]) -> None:
        with client, socket.create_connection(store) as server:
            back = threading.Thread(target=self._pass, args=(server, client))
            back.start()
            self._pass(client, server)
            back.join()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if data.startswith(b"PUT "):
                    time.sleep(self.delay_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.fixture(scope="module")
def way() -> Iterator[Way]:
    way = Way()
    yield way
    way.listener.close()


@pytest.fixture(scope="module")
def here(way: Way, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    kvm.require()
    folder: Path = tmp_path_factory.mktemp("functions")
    (folder / "exchanges.py").write_text(HANDLER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_start_delay", lambda _state, url, _settings, _started: way.lead_to(url))
        own = TestNode.start(tmp_path_factory.mktemp("node"), "kvm", store_round_trip_ms=1)
    try:
        own.s3.create_bucket(Bucket=BUCKET)
        own.deploy("writer", folder / "exchanges.py", timeout_s=30, writes="journal")
        own.deploy("other", folder / "exchanges.py", timeout_s=30)
        # Until the node knows how the store answers, nothing is deferred.
        for _ in range(2):
            own.invoke("writer", {"by": "boto3", "key": "warm", "body": "x"})
        yield own
    finally:
        own.close()


def _held_up(here: TestNode, way: Way, key: str, body: str) -> None:
    """Leave a write pending, and nothing else."""
    while here.nexus.writes()["pending"]:
        time.sleep(0.05)
    way.delay_s = HELD_UP_S
    assert here.invoke("writer", {"by": "boto3", "key": key, "body": body})[0] == 200
    time.sleep(0.1)
    way.delay_s = 0.0
    assert here.nexus.writes()["pending"] == 1


def test_a_presigned_get_sees_what_was_acknowledged(here: TestNode, way: Way) -> None:
    here.s3.put_object(Bucket=BUCKET, Key="read", Body=b"old")
    _held_up(here, way, "read", "new")
    assert here.invoke("other", {"by": "get_object", "key": "read"})[0] == [200, "new"]


def test_a_presigned_put_is_not_overtaken_by_what_was_acknowledged_before_it(here: TestNode, way: Way) -> None:
    _held_up(here, way, "written", "first")
    assert here.invoke("other", {"by": "put_object", "key": "written", "body": "second"})[0][0] == 200
    assert here.nexus.writes()["pending"] == 0
    time.sleep(HELD_UP_S)
    assert here.s3.get_object(Bucket=BUCKET, Key="written")["Body"].read() == b"second"
