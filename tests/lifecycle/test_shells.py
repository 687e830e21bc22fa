"""Shells: microVMs made ahead of need. A start in one is as good, as bounded and as confined as any other."""

import time
from contextlib import suppress
from pathlib import Path

import pytest


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.02)


@pytest.fixture
def shells(node):
    """The node, with all its shells ready; the processes of shells and instances."""
    if node.isolation != "kvm":
        pytest.skip("a process has no shell")
    until(lambda: node.admin("GET", "/nexus/v1/status")[1]["shells"] == 2)
    return node


def cold(node, name, event):
    node.admin("POST", f"/nexus/v1/functions/{name}/evict")
    until(lambda: not instances(node, name))
    return node.invoke(name, event)


def instances(node, name):
    return [one for one in node.admin("GET", "/nexus/v1/instances")[1] if one["function"] == name]


def pid_of(node, name):
    (instance,) = instances(node, name)
    return instance["pid"]


def in_shell(pid):
    return b"shell" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_cold_start_runs_in_a_shell_that_is_jailed_like_any_instance(shells, handlers):
    node = shells
    node.deploy("shelled", handlers / "lifecycle.py", memory_mib=128, max_instances=1)
    until(lambda: node.admin("GET", "/nexus/v1/status")[1]["shells"] == 2)
    payload, response = cold(node, "shelled", {})
    assert not response.get("FunctionError"), payload
    pid = pid_of(node, "shelled")
    assert in_shell(pid)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == 0
    assert int(status["CapBnd"], 16) == 0 or Path("/proc/self").stat().st_uid != 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    if Path("/proc/self").stat().st_uid == 0:
        assert status["Uid"].split() == ["65534"] * 4
        assert status["Gid"].split() == ["65534"] * 4
    # Of the numbers that were kept for the hand-over none stays open but what was handed over.
    links = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links[int(link.name)] = str(link.readlink())
    assert [number for number, target in links.items() if target == "/dev/null"] == [0]
    # The way to the backend for connections, and not the socket by which the shell was handed its start.
    assert len([target for target in links.values() if target.startswith("socket:")]) == 1


def test_clones_in_shells_differ(shells, handlers):
    node = shells
    node.deploy("distinct", handlers / "lifecycle.py", memory_mib=128, max_instances=1)
    tokens = set()
    for _ in range(4):
        until(lambda: node.admin("GET", "/nexus/v1/status")[1]["shells"] == 2)
        payload, _ = cold(node, "distinct", {})
        assert payload["calls"] == 1
        assert in_shell(pid_of(node, "distinct"))
        tokens.add(payload["token"])
    assert len(tokens) == 4


def test_a_timeout_ends_an_instance_in_a_shell(shells, handlers):
    node = shells
    node.deploy("late", handlers / "lifecycle.py", memory_mib=128, timeout_s=1, max_instances=1)
    until(lambda: node.admin("GET", "/nexus/v1/status")[1]["shells"] == 2)
    payload, response = cold(node, "late", {"spin": True})
    assert response.get("FunctionError")
    assert "Task timed out" in payload["errorMessage"]
    payload, _ = node.invoke("late", {})
    assert payload["calls"] == 1
