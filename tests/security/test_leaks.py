"""Nothing that identifies the host reaches a guest: names, paths, processes, addresses, devices, the CPU it runs on."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.kvm

# Everything a program can ask for, and all of its own memory.
LOOK = r"""
import ctypes, json, os, resource, sys, time
seen = {}
def note(name, value):
    seen[name] = value if isinstance(value, str) else repr(value)
def content(path):
    try:
        with open(path, "rb") as file:
            return file.read(65536).decode("latin-1")
    except OSError as error:
        return f"error {error.errno} {error.strerror} {error.filename}"
def walk(path, depth):
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        note(path, str(error))
        return
    note(path, names)
    for name in names:
        full = f"{path.rstrip('/')}/{name}"
        try:
            stat = os.lstat(full)
        except OSError as error:
            note(full, str(error))
            continue
        if stat.st_mode & 0o170000 == 0o040000:
            if depth:
                walk(full, depth - 1)
        elif stat.st_mode & 0o170000 == 0o120000:
            try:
                note(full, os.readlink(full))
            except OSError as error:  # the descriptor of the listing itself
                note(full, str(error))
        elif path.startswith(("/proc", "/sys", "/etc")):
            note(full, content(full))
walk("/proc", 3)
walk("/sys", 2)
walk("/dev", 1)
walk("/etc", 0)
walk("/", 0)
for path in ["/proc/cpuinfo", "/proc/version", "/proc/stat", "/proc/net/dev", "/proc/net/arp", "/proc/modules", "/proc/kallsyms", "/proc/iomem",
             "/proc/self/mountinfo", "/proc/self/cgroup", "/proc/self/auxv", "/proc/sys/kernel/random/boot_id", "/etc/machine-id", "/etc/hostname",
             "/etc/hosts", "/etc/resolv.conf", "/sys/class/net/eth0/address", "/sys/class/dmi/id/product_uuid", "/proc/1/environ"]:
    note(path, content(path))
note("uname", os.uname())
note("environment", dict(os.environ))
note("ids", [os.getpid(), os.getppid(), os.getuid(), os.getgid(), os.getpgid(0), os.getsid(0), os.getgroups()])
note("affinity", sorted(os.sched_getaffinity(0)))
note("cpus", os.cpu_count())
note("load", os.getloadavg() if hasattr(os, "getloadavg") else "")
note("arguments", sys.argv)
numbers = {}
for path in ["/", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/dev/null", "/proc", "/proc/self", "/bin", "/lib64", "/usr/bin/env", "/etc/ld.so.cache"]:
    try:
        stat = os.stat(path)
        numbers[path] = [stat.st_dev, stat.st_ino, stat.st_uid, stat.st_gid]
        files = os.statvfs(path)
        numbers[path] += [files.f_blocks, files.f_bfree, files.f_files, files.f_fsid]
    except OSError as error:
        note("stat " + path, str(error))
for path in ["/nowhere/x", "/usr/../../etc/shadow", "/proc/self/fd/99", "/usr/bin/env/x"]:
    try:
        open(path)
    except OSError as error:
        note("error " + path, repr(error))
libc = ctypes.CDLL(None, use_errno=True)
info = (ctypes.c_long * 14)()
libc.sysinfo(info)
note("sysinfo", list(info))
print(json.dumps([seen, numbers, os.getpid(), list(info)[0]]))
sys.stdout.flush()
# Its own memory, the stack and what the loader was given included, comes last: raw.
with open("/proc/self/maps") as file:
    maps = file.read()
sys.stdout.buffer.write(maps.encode() + b"\0")
for line in maps.splitlines():
    span, permissions = line.split()[:2]
    start, end = (int(bound, 16) for bound in span.split("-"))
    if permissions[0] == "r" and end - start < 64 << 20:
        try:
            sys.stdout.buffer.write(ctypes.string_at(start, end - start))
        except (ValueError, MemoryError):
            pass
"""


def _host_names() -> dict[str, str]:
    """What is the host's alone, by kind."""
    names = {"host name": socket.gethostname(), "kernel release": platform.release(), "machine": f"{uuid.getnode():012x}"}
    for kind, path in {
        "boot id": "/proc/sys/kernel/random/boot_id",
        "machine id": "/etc/machine-id",
        "kernel": "/proc/version",
    }.items():
        try:
            names[kind] = Path(path).read_text().strip()
        except OSError:
            continue
    for link in Path("/sys/class/net").glob("*"):
        address = (link / "address").read_text().strip()
        if set(address) - {"0", ":"}:
            names[f"address of {link.name}"] = address
    with open("/proc/cpuinfo") as file:
        names["CPU"] = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    names["home"] = str(Path.home().resolve())
    names["working directory"] = str(Path.cwd())
    # Short ones are found by chance.
    return {kind: name for kind, name in names.items() if len(name) >= 5}


@pytest.fixture(scope="module")
def looked(binaries):
    """What a guest saw of its surroundings, and its memory."""
    marker = uuid.uuid4().hex
    command = [str(binaries / "nexus-vmm"), "run", "--memory", "256", "--", "/usr/bin/python3", "-S", "-c", LOOK]
    environment = os.environ | {"NEXUS_TEST_MARKER": marker}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment
    ) as process:
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors.decode()
    line, _, memory = output.partition(b"\n")
    seen, numbers, pid, uptime = json.loads(line)
    assert len(memory) > 4 << 20, "that is not all of its memory"
    return {
        "seen": seen,
        "numbers": numbers,
        "pid": pid,
        "uptime": uptime,
        "memory": memory,
        "vmm": process.pid,
        "marker": marker,
    }


def test_no_name_of_the_host_is_told(looked):
    names = _host_names() | {"environment": looked["marker"], "binaries": "nexus-vmm"}
    for kind, name in names.items():
        found = [where for where, text in looked["seen"].items() if name.lower() in text.lower()]
        assert not found, (kind, name, found)


def test_no_name_of_the_host_lies_in_memory(looked):
    for kind, name in _host_names().items():
        if kind in {"home", "CPU"}:
            continue  # short or common; test_no_name_of_the_host_is_told asks for them
        assert name.encode() not in looked["memory"], (kind, name)
    assert looked["marker"].encode() not in looked["memory"]


def test_no_address_of_the_kernel_or_the_hypervisor_is_told(looked):
    for where, text in looked["seen"].items():
        assert not re.search(r"\bffff[89a-f][0-9a-f]{11}\b", text), where
        assert not re.search(r"\b7f[0-9a-f]{10}\b", text), where


def test_no_process_of_the_host_is_told(looked):
    others = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {1, looked["pid"]}
    shown = {int(name) for name in re.findall(r"'(\d+)'", looked["seen"]["/proc"])}
    assert shown <= {1, looked["pid"]}
    assert looked["vmm"] not in shown
    assert looked["vmm"] != looked["pid"]
    status = looked["seen"].get("/proc/self/status", "")
    assert not {int(n) for n in re.findall(r"^(?:Pid|Tgid|PPid|NSpid):\s+(\d+)", status, re.M)} & (
        others - {looked["pid"], 0, 1}
    )


def test_devices_inodes_and_sizes_are_its_own(looked):
    for path, (device, inode, uid, gid, blocks, free, files, _fsid) in looked["numbers"].items():
        real, space = os.stat(path), os.statvfs(path)
        assert device != real.st_dev or path == "/dev/null", path
        assert inode != real.st_ino, path
        assert (blocks, free) != (space.f_blocks, space.f_bfree), path
        assert files == 0 or files != space.f_files, path
        assert (uid, gid) in {(0, 0), (1000, 1000), (65534, 65534)}, path


def test_cpus_and_uptime_are_its_own(looked):
    assert looked["seen"]["affinity"] == "[0]"
    assert looked["seen"]["cpus"] == "1"
    with open("/proc/uptime") as file:
        assert abs(looked["uptime"] - float(file.read().split()[0])) > 1, "that is the host's uptime"
