"""The same program gives the same results, types and exceptions over its own sockets and over the backend."""

import pytest
import web_scenarios as scenarios
from web_servers import assert_same


@pytest.fixture(scope="module")
def inside(deploy, web):
    return deploy("web_scenarios", ports=web["ports"].values())


@pytest.mark.parametrize("name", list(scenarios.SCENARIOS))
def test_same_inside(name, node, web, native, inside):
    if name in scenarios.WITH_SOCKETS and node.isolation == "process":
        pytest.skip("a jailed process has no sockets")
    event = {"scenario": name, **web}
    assert_same(native("web_scenarios", event), inside(event))
