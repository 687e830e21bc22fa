"""A function's sockets reach what its policy names, and nothing else."""

from __future__ import annotations

import socket

import pytest

from .conftest import Call, Servers

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_stream(call: Call, servers: Servers, host: str) -> None:
    assert call("tcp", host=host, port=servers.echo) == {"value": ["hello\n", True]}


def test_a_connection_that_waits(call: Call, servers: Servers) -> None:
    assert call("blocking", host="127.0.0.1", port=servers.echo) == {"value": "hello\n"}


def test_a_connection_that_does_not_wait(call: Call, servers: Servers) -> None:
    assert call("by_poll", host="127.0.0.1", port=servers.echo) == {"value": ["EINPROGRESS", True, 0, True]}


def test_what_was_registered_before_the_connection_stays_registered(call: Call, servers: Servers) -> None:
    assert call("by_epoll", host="127.0.0.1", port=servers.echo) == {"value": "hello\n"}


def test_a_half_close(call: Call, servers: Servers) -> None:
    assert call("shut", host="127.0.0.1", port=servers.echo) == {"value": "count me"}


def test_eight_mebibytes_both_ways(call: Call, servers: Servers) -> None:
    assert call("large", host="127.0.0.1", port=servers.echo) == {"value": True}


def test_asyncio(call: Call, servers: Servers) -> None:
    assert call("streams", host="127.0.0.1", port=servers.echo) == {"value": [f"{n}\n" for n in range(10)]}


def test_tls_in_the_guest(call: Call, servers: Servers) -> None:
    answer = call("tls", host="localhost", port=servers.tls, authority=servers.certificate)
    assert answer == {"value": ["hello\n", "TLSv1.3"]}


def test_datagrams(call: Call, servers: Servers) -> None:
    assert call("udp", host="127.0.0.1", port=servers.udp) == {"value": ["ONE", True, "TWO"]}


def test_what_is_listened_on_inside_stays_inside(call: Call, servers: Servers) -> None:
    assert call("inside", port=servers.echo) == {"value": "inside"}
    assert call("tcp", host="127.0.0.1", port=servers.echo) == {"value": ["hello\n", True]}


def test_no_descriptor_is_lost(call: Call, servers: Servers) -> None:
    # More than the hypervisor may have at a time.
    assert call("many", host="127.0.0.1", port=servers.echo, count=1500) == {"value": 1500}


def test_what_no_policy_names_is_denied(call: Call, servers: Servers) -> None:
    assert call("tcp", host="127.0.0.1", port=servers.hidden)["error"] == "ConnectionRefusedError"
    for host in ("169.254.169.254", "10.0.0.1", "192.0.2.1", "1.1.1.1"):
        assert call("blocking", host=host, port=80) == {"error": "PermissionError", "errno": "EACCES"}, host
    assert call("udp", host="1.1.1.1", port=53)["error"] == "PermissionError"


def test_names(call: Call) -> None:
    assert call("resolve", name="localhost") == {"value": ["127.0.0.1"]}
    host = socket.gethostname()
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, 80, socket.AF_INET)}
    except socket.gaierror:
        pass
    else:
        assert call("resolve", name=host) == {"value": sorted(addresses)}
    # Denied before anything is asked; allowed, and there is no such name or no resolver.
    for name in ("secret.example.org", "nothing-of-this-name.example.com"):
        assert call("resolve", name=name)["error"] == "gaierror"
