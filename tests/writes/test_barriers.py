"""Whatever leaves an instance behind a deferred write waits until that is in the store: sockets, web clients, gRPC."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from framework import kvm
from framework.node import TestNode

HERE = Path(__file__).parent
WEB = HERE.parent / "web"
BUCKET = "bucket"
MARK = "sent-behind-the-write"
# How far away the store is: an effect that did not wait would be seen long before the write's arrival.
ROUND_TRIP_MS = 800


class Witness:
    """Passes connections on to a server, and notes what is the case whenever bytes with the mark come by."""

    def __init__(self, upstream: int, look: Callable[[], bool]) -> None:
        self.upstream = upstream
        self.look = look
        self.seen: list[bool] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.upstream))
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, watched: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if watched and MARK.encode() in data:
                    self.seen.append(self.look())
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self.listener.close()


@pytest.fixture(scope="module")
def packages() -> Path:
    import os
    import sys

    from nexus.packaging.depot import Depot
    from nexus.packaging.requirements import add_requirements

    return add_requirements(Depot(Path(os.environ["NEXUS_PACKAGES"])), WEB / "requirements.txt", Path(sys.executable))


@pytest.fixture(scope="module")
def distant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    """A node of microVMs whose store is far away from it, though not from this process."""
    kvm.require()
    node = TestNode.start(tmp_path_factory.mktemp("node"), "kvm", store_round_trip_ms=ROUND_TRIP_MS)
    node.s3.create_bucket(Bucket=BUCKET)
    yield node
    node.close()


@pytest.fixture(scope="module")
def servers(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    import sys

    sys.path.insert(0, str(WEB))
    import web_servers

    echo = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = echo.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client:
            while data := client.recv(1 << 16):
                client.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    program = WEB / "rpc_server.py"
    with (
        echo,
        web_servers.running(WEB / "web_servers.py", tmp_path_factory.mktemp("web")) as web,
        web_servers.running(program, tmp_path_factory.mktemp("rpc"), packages) as rpc,
    ):
        yield {"socket": echo.getsockname()[1], "requests": web["ports"]["http"], "grpc": rpc["ports"]["plain"]}


@pytest.mark.parametrize("early", [False, True], ids=["opened behind it", "opened before it"])
@pytest.mark.parametrize("by", ["socket", "requests", "grpc"])
def test_an_effect_waits_for_the_writes_before_it(distant: TestNode, servers: dict[str, int], by: str, early: bool) -> None:
    key = name = f"{by}-{'early' if early else 'late'}"

    def is_stored() -> bool:
        try:
            distant.s3.head_object(Bucket=BUCKET, Key=key)
        except ClientError:
            return False
        return True

    witness = Witness(servers[by], is_stored)
    try:
        distant.deploy(
            name,
            HERE,
            handler="effects.handler",
            requirements=WEB / "requirements.txt",
            writes="commit",
            memory_mib=256,
            timeout_s=60,
            max_instances=1,
            policy={"egress": [f"127.0.0.1:{witness.port}"]},
        )
        # Until the node knows how the store answers, nothing is deferred.
        while not distant.nexus.timings(name, 1) or not distant.nexus.timings(name, 1)[0]["writes"]:
            distant.invoke(name, {"bucket": BUCKET})
            assert len(distant.nexus.timings(name)) < 5
        event = {"by": by, "port": witness.port, "early": early, "bucket": BUCKET, "key": key, "mark": MARK}
        began = time.monotonic()
        payload, response = distant.invoke(name, event)
        assert not response.get("FunctionError"), payload
        assert time.monotonic() - began >= ROUND_TRIP_MS / 1000
        assert witness.seen == [True]
        # While a socket or a web conversation is open, through which more may be sent at any time, nothing is deferred.
        deferred = not early or by == "grpc"
        assert (payload[-1] < ROUND_TRIP_MS / 1000) == deferred
    finally:
        witness.close()
