"""The same gRPC program gives the same results and errors with grpcio's core and over the backend."""

from pathlib import Path

import pytest
import web_servers

# What grpcio's core makes of such servers, too; the last of them of an answer that is too large.
_FAILURES = {"UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}


@pytest.fixture(scope="module")
def server(packages, tmp_path_factory):
    """The gRPC server, as scenarios are told of it."""
    program = Path(web_servers.__file__).with_name("rpc_server.py")
    with web_servers.running(program, tmp_path_factory.mktemp("rpc"), packages) as described:
        yield described


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Servers that break HTTP/2's rules."""
    program = Path(web_servers.__file__).with_name("hostile_http2.py")
    with web_servers.running(program, tmp_path_factory.mktemp("hostile")) as described:
        yield described["ports"]


@pytest.fixture(scope="module")
def inside(deploy, server, hostile):
    return deploy("rpc_scenarios", ports=[*server["ports"].values(), *hostile.values()])


@pytest.mark.parametrize("name", ["unary", "future", "streams", "channels", "limits", "generated"])
def test_same_inside(name, server, native, inside):
    event = {"scenario": name, **server}
    web_servers.assert_same(native("rpc_scenarios", event), inside(event))


def test_the_core_starts_no_threads(server, inside):
    assert inside({"scenario": "process", **server}) == 0


def test_calls_that_wait_leave_room_for_others(server, inside):
    web, late, seconds, since_first, all_came = inside({"scenario": "crowd", **server})
    assert (web, all_came) == ("ConnectionRefusedError", True)
    # Where it has taken 6 s to make the others, the first of them have ended, and left room to this one.
    assert late == "DEADLINE_EXCEEDED" or (late == "echo:x" and since_first > 6)
    assert seconds < 4


def _resident_kib(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_servers_that_break_the_rules_harm_only_their_own_calls(node, server, hostile, inside):
    before = _resident_kib(node.nexus.record.processes["nexusd"].pid)
    ends, seconds = inside({"scenario": "hostile", "ports": hostile})
    assert set(ends) == set(hostile)
    assert {name: end for name, end in ends.items() if end not in _FAILURES} == {}
    assert seconds < 15
    assert _resident_kib(node.nexus.record.processes["nexusd"].pid) - before < 32 * 1024
    assert inside({"scenario": "process", **server}) == 0
