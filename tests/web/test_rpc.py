"""The same gRPC program gives the same results and errors with grpcio's core and over the backend."""

from pathlib import Path

import pytest
import web_servers


@pytest.fixture(scope="module")
def server(packages, tmp_path_factory):
    """The gRPC server, as scenarios are told of it."""
    program = Path(web_servers.__file__).with_name("rpc_server.py")
    with web_servers.running(program, tmp_path_factory.mktemp("rpc"), packages) as described:
        yield described


@pytest.fixture(scope="module")
def inside(deploy, server):
    return deploy("rpc_scenarios", ports=server["ports"].values())


@pytest.mark.parametrize("name", ["unary", "future", "streams", "channels"])
def test_same_inside(name, server, native, inside):
    event = {"scenario": name, **server}
    web_servers.assert_same(native("rpc_scenarios", event), inside(event))


def test_the_core_starts_no_threads(server, inside):
    assert inside({"scenario": "process", **server}) == 0
