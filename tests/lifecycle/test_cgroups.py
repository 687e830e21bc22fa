"""A node that is asked to keeps its instances in a control group, and itself out of it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from framework import kvm
from framework.node import TestNode
from nexus.doctor import checks

GROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module", params=["kvm", "process"])
def grouped(request, tmp_path_factory, handlers):
    if checks._cgroups().level != "ok":
        pytest.skip("no control groups that this user may make")
    if request.param == "kvm":
        kvm.require()
    node = TestNode.start(tmp_path_factory.mktemp("node"), request.param, cgroups=True)
    try:
        node.deploy("grouped", handlers / "basic.py", memory_mib=128)
        yield node
    finally:
        node.close()


def groups_of(pid):
    """Path of each controller's group; of cgroup v2 under the empty name."""
    lines = (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    return {name: path for _, names, path in lines for name in names.split(",")}


def test_instances_are_in_a_group_with_limits_and_the_node_is_not(grouped):
    assert "FunctionError" not in grouped.invoke("grouped", {})[1]
    (instance,) = [one for one in grouped.admin("GET", "/nexus/v1/instances")[1] if one["function"] == "grouped"]
    daemon = grouped.nexus.record.processes["nexusd"].pid
    inside, outside = groups_of(instance["pid"]), groups_of(daemon)
    name = f"nexus-instances-{daemon}"
    total = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) << 10
    if (GROUPS / "cgroup.controllers").exists():
        place = GROUPS / inside[""].strip("/")
        group = place.parent
        limit, share = int((group / "memory.max").read_text()), int((group / "cpu.weight").read_text())
        assert (group.name, share, (place / "cpu.weight").read_text()) == (name, 50, "100\n")
    else:
        memory, place = (GROUPS / kind / inside[kind].strip("/") for kind in ("memory", "cpu"))
        group = place.parent
        limit = int((memory / "memory.limit_in_bytes").read_text())
        assert memory.name == group.name == name
        assert (group / "cpu.shares").read_text() == "512\n"
        assert (place / "cpu.shares").read_text() == "1024\n"
    assert total // 2 < limit < total
    assert not any(name in path for path in outside.values())


def test_each_instance_is_in_one_of_its_own_which_goes_with_it(grouped, handlers):
    grouped.deploy("other", handlers / "basic.py", memory_mib=128)
    for function in ("grouped", "other"):
        assert "FunctionError" not in grouped.invoke(function, {})[1]
    pids = {one["function"]: one["pid"] for one in grouped.nexus.instances() if one["state"] == "idle"}
    controller = "" if (GROUPS / "cgroup.controllers").exists() else "cpu"
    first, second = (GROUPS / controller / groups_of(pids[name])[controller].strip("/") for name in ("grouped", "other"))
    assert first != second
    assert first.parent == second.parent
    grouped.nexus.delete("other")
    # Another start: until then the thread that starts them stays in the group that it made last (v1).
    grouped.nexus.evict("grouped")
    deadline = time.monotonic() + 20
    while second.exists() and time.monotonic() < deadline:
        assert "FunctionError" not in grouped.invoke("grouped", {})[1]
        grouped.nexus.evict("grouped")
        time.sleep(0.1)
    assert not second.exists()
