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
    ready(node)
    return node


def ready(node):
    """All shells are there, made since the last start."""
    until(lambda: node.admin("GET", "/nexus/v1/status")[1]["shells"] == 2)


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


PF_USER_WORKER = 0x4000


def threads(pid):
    """Directories in /proc of a process's threads, but for KVM's own, which never leaves the kernel."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [task for task in tasks if not int((task / "stat").read_text().rpartition(")")[2].split()[6]) & PF_USER_WORKER]


def assert_jailed(task, filters=2):
    """A process or thread, by its directory in /proc, is jailed as whoever runs a guest is.

    In a shell there are two filters: the shell's, and that of whoever runs a guest.
    """
    status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert int(status["CapBnd"], 16) == 0 or Path("/proc/self").stat().st_uid != 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["Seccomp_filters"]) == filters
    if Path("/proc/self").stat().st_uid == 0:
        assert status["Uid"].split() == ["65534"] * 4
        assert status["Gid"].split() == ["65534"] * 4


def test_a_shell_is_jailed_before_it_has_a_function(shells):
    node = shells
    ready(node)
    daemon = node.nexus.record.processes["nexusd"].pid
    children = [path.read_text().split() for path in Path(f"/proc/{daemon}/task").glob("*/children")]
    # With no function, all of its children that run a hypervisor wait for one.
    waiting = [Path("/proc") / pid for pids in children for pid in pids if in_shell(pid)]
    assert len(waiting) == 2
    for directory in waiting:
        assert_jailed(directory)
        # And one more thread, which is to open and map what a function needs.
        assert len(threads(directory.name)) == 2


def test_a_cold_start_runs_in_a_shell_that_is_jailed_like_any_instance(shells, handlers):
    node = shells
    node.deploy("shelled", handlers / "lifecycle.py", memory_mib=128, max_instances=1)
    node.invoke("shelled", {})
    payload, response = cold(node, "shelled", {})
    assert not response.get("FunctionError"), payload
    pid = pid_of(node, "shelled")
    assert in_shell(pid)
    # Every thread of it: the one that took up the function has ended.
    for thread in threads(pid):
        assert_jailed(thread)
    # Of the numbers that were kept for the hand-over none stays open but what was handed over.
    links = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links[int(link.name)] = str(link.readlink())
    assert [number for number, target in links.items() if target == "/dev/null"] == [0]
    # The way to the backend for connections, and not the socket by which the shell was handed its start.
    assert len([target for target in links.values() if target.startswith("socket:")]) == 1


def test_what_serves_a_timer_of_the_snapshot_is_jailed_as_well(shells, handlers):
    node = shells
    node.deploy("ticking", handlers / "ticking.py", memory_mib=128, max_instances=1)
    # The first clone records what it uses, and runs in no shell.
    for filters in (1, 2):
        ready(node)
        payload, _ = cold(node, "ticking", {})
        assert payload["rung"] >= 2
        pid = pid_of(node, "ticking")
        assert in_shell(pid) == (filters == 2)
        # The main thread, the guest's, and the timer's.
        assert len(threads(pid)) == 3
        for thread in threads(pid):
            assert_jailed(thread, filters)


def test_clones_in_shells_differ(shells, handlers):
    node = shells
    node.deploy("distinct", handlers / "lifecycle.py", memory_mib=128, max_instances=1)
    node.invoke("distinct", {})
    tokens = set()
    for _ in range(4):
        ready(node)
        payload, _ = cold(node, "distinct", {})
        assert payload["calls"] == 1
        assert in_shell(pid_of(node, "distinct"))
        tokens.add(payload["token"])
    assert len(tokens) == 4


def test_a_timeout_ends_an_instance_in_a_shell(shells, handlers):
    node = shells
    node.deploy("late", handlers / "lifecycle.py", memory_mib=128, timeout_s=1, max_instances=1)
    ready(node)
    payload, response = cold(node, "late", {"spin": True})
    assert response.get("FunctionError")
    assert "Task timed out" in payload["errorMessage"]
    payload, _ = node.invoke("late", {})
    assert payload["calls"] == 1


def files_of_pages(pid):
    """Files of snapshots that its memory map shows, once for each mapping."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [Path(line.split()[5]) for line in lines if line.endswith(("/pages", "/base"))]


def test_two_functions_are_themselves_in_shells_that_show_their_base(shells, handlers):
    node = shells
    for name, mark in (("one", "1"), ("other", "2")):
        node.deploy(name, handlers / "laid.py", memory_mib=256, max_instances=1, environment={"MARK": mark})
        first, _ = node.invoke(name, {})
        assert (first["mark"], first["calls"], first["right"]) == (mark, 1, True)
    for name, mark in (("one", "1"), ("other", "2")):
        ready(node)
        payload, response = cold(node, name, {})
        assert not response.get("FunctionError"), payload
        assert (payload["mark"], payload["calls"], payload["right"]) == (mark, 1, True)
        assert in_shell(pid_of(node, name))
        # Also what it starts, and copies of it, have the function's memory and not the base's.
        for way in ("spawn", "fork"):
            payload, _ = node.invoke(name, {"way": way})
            assert payload["child"] == [mark, True], way
        if Path("/proc/self").stat().st_uid == 0:
            # Its own pages have been copied over the base's, for the most part: they are mapped at its rest.
            files = files_of_pages(pid_of(node, name))
            own = [file for file in files if file.name == "pages" and (file.parent / "base").exists()]
            assert len(files) > 20
            assert len(own) < len(files) / 4


def test_a_shell_whose_base_is_gone_serves_all_the_same(shells, handlers, tmp_path):
    node = shells
    node.deploy("based", handlers / "lifecycle.py", memory_mib=128, max_instances=1)
    node.invoke("based", {})
    ready(node)
    bases = {path.read_text() for path in (node.kept / "snapshots" / "bases").iterdir()}
    folder = node.kept / "snapshots" / "content"
    for base in bases:
        (folder / base).rename(folder / f"{base}.away")
    try:
        for _ in range(2):
            payload, response = cold(node, "based", {})
            assert not response.get("FunctionError"), payload
            assert payload["calls"] == 1
            assert in_shell(pid_of(node, "based"))
            ready(node)
    finally:
        for base in bases:
            (folder / f"{base}.away").rename(folder / base)


def test_functions_on_two_bases_each_find_a_shell_that_shows_theirs(shells, handlers):
    node = shells
    if Path("/proc/self").stat().st_uid != 0:
        pytest.skip("only root may look at an instance's memory map")
    for name, offload in (("by-call", "api"), ("by-request", "http")):
        node.deploy(name, handlers / "laid.py", memory_mib=256, max_instances=1, environment={"MARK": name}, offload=offload)
        node.invoke(name, {})
        ready(node)
        cold(node, name, {})
    for _ in range(2):
        for name in ("by-call", "by-request"):
            ready(node)
            payload, response = cold(node, name, {})
            assert not response.get("FunctionError"), payload
            assert (payload["mark"], payload["calls"], payload["right"]) == (name, 1, True)
            files = files_of_pages(pid_of(node, name))
            own = [file for file in files if file.name == "pages" and (file.parent / "base").exists()]
            assert len(own) < len(files) / 4, name
