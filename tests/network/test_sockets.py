"""A function's sockets reach what its policy names, and nothing else."""

from __future__ import annotations

import socket

import pytest

from .conftest import Call, Servers, own_address

pytestmark = pytest.mark.kvm


@pytest.fixture
def six(servers: Servers) -> tuple[int, int, int]:
    """Ports on ::1: an echo, one that no policy names, one for datagrams."""
    if servers.six is None:
        pytest.skip("this machine has no IPv6")
    return servers.six


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_stream(call: Call, servers: Servers, host: str) -> None:
    assert call("tcp", host=host, port=servers.echo) == {"value": ["hello\n", True]}


def test_a_connection_that_waits(call: Call, servers: Servers) -> None:
    assert call("blocking", host="127.0.0.1", port=servers.echo) == {"value": "hello\n"}


def test_a_connection_that_does_not_wait(call: Call, servers: Servers) -> None:
    assert call("by_poll", host="127.0.0.1", port=servers.echo) == {"value": ["EINPROGRESS", True, 0, True]}


def test_what_was_registered_before_the_connection_stays_registered(call: Call, servers: Servers) -> None:
    assert call("by_epoll", host="127.0.0.1", port=servers.echo) == {"value": "hello\n"}


def test_what_was_closed_is_registered_no_more(call: Call, servers: Servers) -> None:
    assert call("by_a_number_again", host="127.0.0.1", port=servers.echo) == {"value": [True, [], 1]}


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


def test_more_sockets_with_datagrams_than_are_kept(call: Call, servers: Servers) -> None:
    assert call("many_datagrams", host="127.0.0.1", port=servers.udp) == {"value": [200, "AGAIN"]}


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


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("blocking", "hello\n"),
        ("by_poll", ["EINPROGRESS", True, 0, True]),
        ("by_epoll", "hello\n"),
        ("shut", "count me"),
        ("large", True),
        ("streams", [f"{n}\n" for n in range(10)]),
    ],
)
def test_a_stream_by_ipv6(call: Call, six: tuple[int, int, int], program: str, value: object) -> None:
    assert call(program, host="::1", port=six[0]) == {"value": value}


def test_datagrams_by_ipv6(call: Call, six: tuple[int, int, int], servers: Servers) -> None:
    assert call("udp", host="::1", port=six[2]) == {"value": ["ONE", True, "TWO"]}
    answers = call("by_two_families", udp_v4=servers.udp, udp_v6=six[2])
    assert answers == {"value": [["X", True], ["X", True]]}


def test_both_ends_have_addresses_of_their_family(call: Call, six: tuple[int, int, int], servers: Servers) -> None:
    assert call("names_of_six", host="::1", port=six[0]) == {"value": ["::1", True, "hello\n"]}
    mapped = call("names_of_six", host="::ffff:127.0.0.1", port=servers.echo)
    assert mapped == {"value": ["::ffff:127.0.0.1", True, "hello\n"]}


def test_who_sorts_addresses_takes_ipv4_first(call: Call) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no IPv6 address but its loopback's")
    # Of another scope than any address it leads to (RFC 6724, rules 2 and 5).
    assert call("seen_as", host=address, port=9) == {"value": "fec0::76:1"}


def test_what_no_policy_names_is_denied_by_ipv6(call: Call, six: tuple[int, int, int], servers: Servers) -> None:
    for host, port in (("::1", six[1]), ("::ffff:127.0.0.1", servers.hidden), ("::1", servers.echo)):
        assert call("blocking", host=host, port=port) == {"error": "ConnectionRefusedError", "errno": "ECONNREFUSED"}, host
    # Private, metadata, other machines, groups; IPv4 addresses in other clothes.
    for host in (
        "fd00:ec2::254",
        "fd00::1",
        "fc00::1",
        "2606:4700::1111",
        "2001:db8::1",
        "ff02::1",
        "ff0e::1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "::169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
    ):
        assert call("blocking", host=host, port=80) == {"error": "PermissionError", "errno": "EACCES"}, host
        assert call("udp", host=host, port=53) == {"error": "PermissionError", "errno": "EACCES"}, host
    # The host's own interfaces are not the guest's.
    assert call("scoped", host="fe80::1", port=80, scope=0)["errno"] == "EINVAL"
    for scope in (1, 2, 2**32 - 1):
        assert call("scoped", host="fe80::1", port=80, scope=scope)["errno"] == "EACCES", scope


def test_names(call: Call) -> None:
    # IPv4 alone where either would do: who connects to a server there tries no other first.
    assert call("resolve", name="localhost") == {"value": ["127.0.0.1"]}
    assert call("resolve", name="localhost", family=socket.AF_INET6) == {"value": ["::1"]}
    host = socket.gethostname()
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, 80)}
    except socket.gaierror:
        pass
    else:
        assert call("resolve", name=host) == {"value": sorted(addresses)}
    # Denied before anything is asked; allowed, and there is no such name or no resolver.
    for name in ("secret.example.org", "nothing-of-this-name.example.com"):
        assert call("resolve", name=name)["error"] == "gaierror"
