"""Connections across snapshots and instances, servers inside, the policy, bodies larger than memory."""

import os
import time

import pytest

MIB = 1 << 20
# NEXUS_LARGE_MIB=1024: by make transparency.
LARGE = int(os.environ.get("NEXUS_LARGE_MIB", "192"))


@pytest.fixture(scope="module")
def base(web):
    return f"http://127.0.0.1:{web['ports']['http']}"


@pytest.fixture(scope="module")
def inside(deploy, web, base):
    return deploy("reach_scenarios", ports=web["ports"].values(), memory_mib=128, environment={"BASE": base})


def test_a_connection_of_before_the_snapshot_works_after_it(inside, base):
    assert inside({"scenario": "before_snapshot", "base": base}) == ["hello"] * 3


def test_a_server_inside_stays_inside(node, inside):
    if node.isolation == "process":
        pytest.skip("a jailed process has no sockets")
    assert inside({"scenario": "server_inside"}) == ["inside"] * 3


def test_what_the_policy_does_not_name_is_denied(inside):
    assert inside({"scenario": "denied"}) == [True] * 4


@pytest.mark.parametrize("way", ["download", "upload"])
def test_a_body_larger_than_memory_takes_little(inside, base, way):
    total, grown = inside({"scenario": way, "base": base, "mib": LARGE})
    assert total == LARGE * MIB
    assert grown < 24 * 1024


def kept(inside, event):
    """The server's connections that calls were served by, until one of them served again."""
    seen = set()
    for _ in range(20):
        port = inside(event)
        if port in seen:
            return seen
        seen.add(port)
        # It is free again as soon as its request's sender has noticed: on a busy machine not at once.
        time.sleep(0.1)
    raise AssertionError(f"none of {seen} was kept")


def test_connections_are_kept_between_clients(inside, web):
    assert kept(inside, {"scenario": "connection", "port": web["ports"]["http"]})


def test_a_connection_serves_one_kind_of_trust(inside, web):
    event = {"scenario": "secure_connection", "port": web["ports"]["server"], "authority": web["authority"]}
    trusting = kept(inside, {**event, "verify": True})
    careless = kept(inside, {**event, "verify": False})
    assert not trusting & careless
    assert trusting & kept(inside, {**event, "verify": True})
    assert careless & kept(inside, {**event, "verify": False})
