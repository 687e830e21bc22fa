"""TLS is the host's: what a connection is encrypted with is not in the guest, whose request went through it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from framework.memory import search

if TYPE_CHECKING:
    from pathlib import Path

    from framework.node import TestNode

    from .conftest import Servers

HANDLER = """
import boto3
from botocore import UNSIGNED
from botocore.config import Config

def handler(event, context):
    where = f"https://localhost:{event['port']}"
    s3 = boto3.client("s3", endpoint_url=where, config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}))
    for _ in range(5):
        body = s3.get_object(Bucket="b", Key="k")["Body"].read()
    return len(body)
"""


@pytest.mark.kvm
def test_no_key_of_a_tls_connection_is_in_the_guest(kvm_node: TestNode, servers: Servers, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root reads the memory of a jailed process")
    (tmp_path / "over_tls.py").write_text(HANDLER)
    policy = {"egress": [f"127.0.0.1:{servers.https}"]}
    kvm_node.deploy("over-tls", tmp_path / "over_tls.py", timeout_s=60, max_instances=1, policy=policy)
    payload, response = kvm_node.invoke("over-tls", {"port": servers.https})
    assert not response.get("FunctionError"), payload
    assert payload == 8 * 4096
    lines = [line.split() for line in servers.keys.read_text().splitlines() if not line.startswith("#")]
    needles = {label: bytes.fromhex(secret) for label, _, secret in lines}
    assert {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= set(needles)
    (pid,) = (one["pid"] for one in kvm_node.nexus.instances() if one["function"] == "over-tls")
    found, searched = search(pid, {**needles, "body": b"content " * 512})
    assert searched > 8 << 20, "that is not the whole of it"
    assert found == {"body"}
