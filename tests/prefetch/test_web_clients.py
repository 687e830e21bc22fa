"""What a web client writes by a presigned URL is a write through the node: a copy that was read before does not hide it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from framework import kvm
from framework.node import TestNode

HANDLER = """
import http.client
import time
import urllib.parse

import boto3

s3 = boto3.client("s3")

def handler(event, context):
    where = {"Bucket": "ahead", "Key": event["key"]}
    if "body" not in event:
        time.sleep(event["after"])
        return s3.get_object(**where)["Body"].read().decode()
    parts = urllib.parse.urlsplit(s3.generate_presigned_url("put_object", Params=where))
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    connection.request("PUT", f"{parts.path}?{parts.query}", event["body"].encode())
    return connection.getresponse().status
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    kvm.require()
    folder = tmp_path_factory.mktemp("functions")
    (folder / "reads_ahead.py").write_text(HANDLER)
    node = TestNode.start(tmp_path_factory.mktemp("node"), "kvm")
    try:
        node.s3.create_bucket(Bucket="ahead")
        node.deploy("reads-ahead", folder / "reads_ahead.py", timeout_s=30, prefetch=("s3://ahead/{key}",))
        node.deploy("writes-by-url", folder / "reads_ahead.py", timeout_s=30)
        yield node
    finally:
        node.close()


def test_a_presigned_put_makes_a_copy_stale(here: TestNode) -> None:
    # Instances are there, so that what follows takes no longer than it is waited for.
    here.s3.put_object(Bucket="ahead", Key="warm", Body=b"x")
    here.invoke("reads-ahead", {"key": "warm", "after": 0})
    here.invoke("writes-by-url", {"key": "warm", "body": "x"})
    here.s3.put_object(Bucket="ahead", Key="k", Body=b"old")
    time.sleep(1.2)
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.append(here.invoke("reads-ahead", {"key": "k", "after": 2})[0]))
    reader.start()
    time.sleep(0.5)
    assert here.invoke("writes-by-url", {"key": "k", "body": "new"})[0] == 200
    reader.join()
    assert got == ["new"]
