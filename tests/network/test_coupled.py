"""Coupled: the SDK works in the guest, over sockets of the backend's; credentials per function, renewed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from framework.node import TestNode
from nexus.errors import ServiceError

pytestmark = pytest.mark.kvm

HANDLER = """
import os
import boto3

s3 = boto3.client("s3")

def handler(event, context):
    if event.get("call") == "environment":
        return {k: v for k, v in os.environ.items() if "KEY" in k or "TOKEN" in k}
    if event.get("call") == "key id":
        return boto3.Session().get_credentials().access_key
    s3.put_object(Bucket="coupled", Key="k", Body=b"x" * 200_000)
    body = s3.get_object(Bucket="coupled", Key="k")["Body"].read()
    return [len(body), type(s3._endpoint.http_session.send).__module__, s3._endpoint.http_session.send.__module__]
"""


def credentials_file(path: Path, node: TestNode, **changed: str) -> str:
    path.touch(mode=0o600)
    path.write_text(json.dumps({**node.credentials, **changed}))
    return str(path)


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("function") / "coupled.py"
    file.write_text(HANDLER)
    return file


def test_the_real_sdk_works_in_the_guest(kvm_node: TestNode, function: Path, tmp_path: Path) -> None:
    kvm_node.s3.create_bucket(Bucket="coupled")
    own = credentials_file(tmp_path / "c.json", kvm_node)
    kvm_node.deploy("coupled", function, timeout_s=60, offload="coupled", credentials=own)
    for _ in range(2):
        payload, response = kvm_node.invoke("coupled", {})
        assert not response.get("FunctionError"), payload
        assert payload[0] == 200_000
        assert "nexus" not in payload[2]
    # The credentials are handed over, but to who asks for them: they are in no environment.
    assert kvm_node.invoke("coupled", {"call": "environment"})[0] == {}
    assert kvm_node.invoke("coupled", {"call": "key id"})[0] == kvm_node.credentials["access_key_id"]


def test_coupled_wants_credentials_of_its_own(kvm_node: TestNode, function: Path) -> None:
    with pytest.raises(ServiceError, match="credentials"):
        kvm_node.deploy("coupled-without", function, offload="coupled")


def test_nobody_else_is_handed_credentials(kvm_node: TestNode, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(
        "import socket\n"
        "def handler(event, context):\n"
        "    try:\n"
        "        socket.create_connection(('169.254.170.2', 80), timeout=5)\n"
        "    except OSError as error:\n"
        "        return type(error).__name__\n"
    )
    kvm_node.deploy("not-coupled", tmp_path / "f.py", timeout_s=30)
    assert kvm_node.invoke("not-coupled", {})[0] == "PermissionError"


def test_credentials_of_a_function_are_its_own_and_are_renewed(kvm_node: TestNode, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(
        "import boto3\n"
        "from botocore.exceptions import ClientError\n"
        "s3 = boto3.client('s3')\n"
        "def handler(event, context):\n"
        "    try:\n"
        "        return len(s3.list_buckets()['Buckets'])\n"
        "    except ClientError as error:\n"
        "        return error.response['Error']['Code']\n"
    )
    wrong = credentials_file(tmp_path / "c.json", kvm_node, access_key_id="AKIDOFNOBODY00000000")
    kvm_node.deploy("own-credentials", tmp_path / "f.py", timeout_s=30, credentials=wrong)

    def answer() -> Any:
        return kvm_node.invoke("own-credentials", {})[0]

    # The node's own would do; with these the store answers with an error's code.
    assert isinstance(answer(), str)
    credentials_file(tmp_path / "c.json", kvm_node)
    deadline = time.monotonic() + 20
    while not isinstance(answer(), int) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert isinstance(answer(), int)


def test_credentials_that_cannot_be_used_are_refused(kvm_node: TestNode, function: Path, tmp_path: Path) -> None:
    (tmp_path / "open.json").write_text("{}")
    for source, word in [(str(tmp_path / "open.json"), "chmod 600"), (str(tmp_path / "none.json"), "none.json")]:
        with pytest.raises(ServiceError, match=word):
            kvm_node.deploy("bad-credentials", function, credentials=source)
