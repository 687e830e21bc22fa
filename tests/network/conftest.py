"""Servers on the host's loopback, and a node whose functions run in microVMs."""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import ssl
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from framework import kvm
from framework.node import TestNode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"content " * 4096
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _Datagrams(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, server = self.request
        server.sendto(data.upper(), self.client_address)


class _DatagramsV6(socketserver.ThreadingUDPServer):
    address_family = socket.AF_INET6


@dataclass(frozen=True)
class Servers:
    """Ports on 127.0.0.1.

    An echo, an echo that no policy names, one behind TLS with its certificate, one for datagrams; and HTTPS, with the
    file of its connections' keys. On ::1 an echo, one that no policy names, and one for datagrams; none without IPv6.
    """

    echo: int
    hidden: int
    tls: int
    certificate: str
    udp: int
    https: int
    keys: Path
    six: tuple[int, int, int] | None


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]
    subprocess.run(
        [*command, *names, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    running: list[socketserver.BaseServer] = [_Server(("127.0.0.1", 0), _Echo) for _ in range(3)]
    running.append(socketserver.ThreadingUDPServer(("127.0.0.1", 0), _Datagrams))
    running[2].socket = context.wrap_socket(running[2].socket, server_side=True)
    page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    keys = folder / "keys"
    told = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    told.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    told.keylog_filename = str(keys)
    page.socket = told.wrap_socket(page.socket, server_side=True)
    running.append(page)
    if socket.has_dualstack_ipv6():
        running += [_ServerV6(("::1", 0), _Echo), _ServerV6(("::1", 0), _Echo), _DatagramsV6(("::1", 0), _Datagrams)]
    for server in running:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ports = [int(server.server_address[1]) for server in running]
    six = (ports[5], ports[6], ports[7]) if len(ports) > 5 else None
    yield Servers(ports[0], ports[1], ports[2], (folder / "cert.pem").read_text(), ports[3], ports[4], keys, six)
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def kvm_node(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[TestNode]:
    """A node with microVMs: the only kind whose functions have sockets to the outside. It trusts the servers' certificate."""
    kvm.require()
    folder = tmp_path_factory.mktemp("node")
    authority = folder / "authority.pem"
    authority.write_text(servers.certificate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority))
        node = TestNode.start(folder / "state", "kvm")
    try:
        yield node
    finally:
        node.close()


Call = Callable[..., Any] if TYPE_CHECKING else object


@pytest.fixture(scope="session")
def call(kvm_node: TestNode, servers: Servers) -> Call:
    """Run a program of the handler's in a function whose policy names the servers, but for the hidden one."""
    # A name of the host's own, which its resolver knows without asking anybody.
    named = [f"{socket.gethostname()}:80", *(f"127.0.0.1:{port}" for port in (servers.echo, servers.tls, servers.udp))]
    if address := own_address():
        named.append(f"[{address}]:9")
    if servers.six:
        named += [f"[::1]:{port}" for port in (servers.six[0], servers.six[2])]
    kvm_node.deploy(
        "network", Path(__file__).parent / "handler.py", timeout_s=60, policy={"egress": [*named, "*.example.com:443"]}
    )

    def run(program: str, **arguments: Any) -> Any:
        payload, response = kvm_node.invoke("network", {"call": program, **arguments})
        assert not response.get("FunctionError"), payload
        return payload

    return run


def own_address() -> str | None:
    """An IPv6 address of this machine's that is not its loopback's, if it has one: nothing is sent to find out."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as towards:
        towards.connect(("2001:db8::1", 9))
        return str(towards.getsockname()[0])
    return None


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
