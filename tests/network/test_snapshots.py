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

PLACE = (os.environ["HOST"], int(os.environ["PORT"]))

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
        "name": len(idle.getsockname()),
        "write": outcome(lambda: waited_for.send(b"x") and waited_for.send(b"x")),
    }
    with socket.create_connection(PLACE, timeout=10) as anew:
        reply["anew"] = answer(anew)
    return reply
"""


@pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
def test_clones_find_them_reset_and_connect_anew(kvm_node: TestNode, servers: Servers, tmp_path: Path, six: bool) -> None:
    if six and servers.six is None:
        pytest.skip("this machine has no IPv6")
    (tmp_path / "connects.py").write_text(HANDLER)
    host, port = ("::1", servers.six[0]) if six and servers.six else ("127.0.0.1", servers.echo)
    policy = {"egress": [f"[{host}]:{port}" if six else f"{host}:{port}"]}
    environment = {"HOST": host, "PORT": str(port)}
    kvm_node.deploy("connects", tmp_path / "connects.py", timeout_s=60, policy=policy, environment=environment)
    for _ in range(2):
        payload, response = kvm_node.invoke("connects", {})
        assert not response.get("FunctionError"), payload
        assert payload.pop("write") in {"ECONNRESET", "EPIPE"}
        # The kernel knows what family it was of.
        assert payload.pop("name") == (4 if six else 2)
        assert payload == {"at import": "hello", "event": True, "read": "ECONNRESET", "read again": 0, "anew": "hello"}
        kvm_node.nexus.evict("connects")
