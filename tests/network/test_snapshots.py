"""What becomes of connections to the outside that were open when the snapshot was taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from framework.node import TestNode

from .conftest import Servers

pytestmark = pytest.mark.kvm

HANDLER = """
import errno
import os
import select
import socket

PLACE = ("127.0.0.1", int(os.environ["PORT"]))

def answer(connection):
    connection.sendall(b"hello")
    return connection.recv(100).decode()

idle = socket.create_connection(PLACE, timeout=10)
waited_for = socket.create_connection(PLACE, timeout=10)
used = answer(idle)
poller = select.poll()
poller.register(waited_for, select.POLLIN)

def outcome(call):
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]

def handler(event, context):
    reply = {
        "at import": used,
        "event": bool(poller.poll(10_000)),
        "read": outcome(lambda: idle.recv(100)),
        "read again": len(idle.recv(100)),
        "write": outcome(lambda: waited_for.send(b"x") and waited_for.send(b"x")),
    }
    with socket.create_connection(PLACE, timeout=10) as anew:
        reply["anew"] = answer(anew)
    return reply
"""


def test_clones_find_them_reset_and_connect_anew(kvm_node: TestNode, servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "connects.py").write_text(HANDLER)
    policy = {"egress": [f"127.0.0.1:{servers.echo}"]}
    environment = {"PORT": str(servers.echo)}
    kvm_node.deploy("connects", tmp_path / "connects.py", timeout_s=60, policy=policy, environment=environment)
    for _ in range(2):
        payload, response = kvm_node.invoke("connects", {})
        assert not response.get("FunctionError"), payload
        assert payload.pop("write") in {"ECONNRESET", "EPIPE"}
        assert payload == {"at import": "hello", "event": True, "read": "ECONNRESET", "read again": 0, "anew": "hello"}
        kvm_node.nexus.evict("connects")
