"""What a guest can see and reach of its host, and what holds its hypervisor."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from framework.cli import run

pytestmark = pytest.mark.kvm

SEE = """
import json, os, socket
def listing(path):
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        return str(error)
def content(path):
    try:
        return open(path, errors="replace").read(4096)
    except OSError as error:
        return str(error)
print(json.dumps({
    "environment": dict(os.environ), "node": os.uname().nodename, "pid": os.getpid(), "ppid": os.getppid(),
    "proc": listing("/proc"), "root": listing("/"), "self": content("/proc/self/status"),
    "host": content("/proc/sys/kernel/hostname"),
    "mounts": content("/proc/mounts"), "command": content("/proc/1/cmdline"), "passwd": content("/etc/passwd"),
    "fds": listing("/proc/self/fd"), "files": [listing("/root"), listing("/home"), listing("/var")],
}))
"""


@pytest.fixture
def traps(tmp_path):
    """A directory to show, with ways out of it, and what lies outside."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("SECRET")
    (root / "allowed").write_text("allowed")
    (root / "folder").mkdir()
    (root / "proc" / "self").mkdir(parents=True)
    links = {
        "absolute": outside / "secret",
        "relative": "../outside/secret",
        "climbing": "../" * 30 + str(outside / "secret").lstrip("/"),
        "chain": "../outside",
        "chained": "chain",
        "folder/secret": "../../outside/secret",
        "proc/self/root": outside / "secret",
        "magic": f"/proc/{os.getpid()}/root{outside}/secret",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(root / "socket"))
    try:
        os.mknod(root / "device", 0o020666, os.makedev(1, 3))
    except PermissionError:
        pass  # only root makes devices; without one the program's attempt fails as it must
    return root, outside / "secret"


def test_no_path_leads_out_of_the_roots(attack, traps):
    root, secret = traps
    before = {path.name: path.lstat() for path in root.iterdir()}
    ended = attack("escape", str(root), str(secret), options=("--ro", str(root)))
    assert (ended.status, "no way out" in ended.output) == (0, True), ended
    after = {path.name: path.lstat() for path in root.iterdir()}
    assert before.keys() == after.keys()
    assert all(before[name].st_mtime_ns == after[name].st_mtime_ns for name in before)
    assert (root / "allowed").read_text() == "allowed"


def test_the_host_is_not_seen(monkeypatch):
    monkeypatch.setenv("NEXUS_TEST_MARKER", "of-the-host")
    result = run("run", "--", "python3", "-S", "-c", SEE)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert "of-the-host" not in result.stdout
    assert seen["node"] == "nexus"
    assert socket.gethostname() not in {seen["node"], seen["host"].strip()}
    pids = {name for name in seen["proc"] if name.isdigit()} if isinstance(seen["proc"], list) else set()
    assert pids <= {str(seen["pid"]), "1"}
    assert "nexus-vmm" not in seen["command"]
    assert "Seccomp" not in seen["self"], "that is the host's"
    for name in ("passwd", "mounts"):  # made up, where they are there at all
        host = {"passwd": "/etc/passwd", "mounts": "/proc/mounts"}[name]
        with open(host) as file:
            assert not set(file.read().splitlines()[1:]) & set(seen[name].splitlines()), name
    for found in seen["files"]:
        # What leads to the interpreter, and nothing beside it.
        assert isinstance(found, str) or set(found) <= set(Path(sys.base_prefix).parts), found


@pytest.fixture
def sleeper(binaries, hostile):
    """The process of a microVM whose guest sleeps, on two threads."""
    command = [str(binaries / "nexus-vmm"), "run", "--", str(hostile / "sleeper")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            yield process
        finally:
            process.kill()


def state_of(pid):
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def test_every_thread_of_the_hypervisor_is_jailed(sleeper):
    threads = os.listdir(f"/proc/{sleeper.pid}/task")
    assert len(threads) > 2
    for thread in threads:
        state = state_of(f"{sleeper.pid}/task/{thread}")
        if not state.get("Name", "").startswith("nexus"):
            continue  # KVM's own, in the kernel
        assert state["NoNewPrivs"] == "1", thread
        assert state["Seccomp"] == "2", thread
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(state[capabilities], 16) == 0, (thread, capabilities)


def test_the_hypervisor_is_the_first_to_go(sleeper):
    with open(f"/proc/{sleeper.pid}/oom_score_adj") as file:
        assert int(file.read()) == 1000


def test_the_hypervisor_holds_no_other_descriptor(sleeper, hostile):
    folder = f"/proc/{sleeper.pid}/fd"
    # Standard error is this test's own.
    held = [os.readlink(f"{folder}/{number}") for number in os.listdir(folder) if number != "2"]
    known = ("pipe:", "/dev/null", "anon_inode:", "/memfd:", "/dev/kvm", "/usr", "/lib", "/bin", "/sbin", "/etc")
    # The program is a root of its own; the hypervisor reads its own use of memory, and which pages are its own.
    known += (str(hostile), f"/proc/{sleeper.pid}/statm", f"/proc/{sleeper.pid}/pagemap")
    strangers = [name for name in held if not name.startswith(known)]
    assert not strangers, strangers


def test_a_killed_hypervisor_leaves_nothing(sleeper):
    sleeper.kill()
    sleeper.wait(10)
    end = time.monotonic() + 5
    while os.path.exists(f"/proc/{sleeper.pid}"):
        assert time.monotonic() < end
        time.sleep(0.01)
