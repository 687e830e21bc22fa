"""A function that turns upon its arena: resized, scribbled over, rung without end. It harms itself only."""

from __future__ import annotations

import concurrent.futures

import pytest
from framework import kvm
from framework.node import TestNode

pytestmark = pytest.mark.kvm

HANDLER = r'''
import fcntl, mmap, os, threading
from nexus.guest.device import open_channel

def transport():
    return open_channel()._transport

def resize(device):
    """What of all attempts had an effect."""
    fd, size = device._fd, len(device.arena)
    worked = []
    for name, attempt in {
        "shrink": lambda: os.ftruncate(fd, 4096),
        "grow": lambda: os.ftruncate(fd, size * 2),
        "allocate": lambda: os.posix_fallocate(fd, size, 4096),
        "write": lambda: os.write(fd, b"x"),
        "write beyond": lambda: os.pwrite(fd, b"x", size),
        "write far beyond": lambda: os.pwrite(fd, b"x", 1 << 40),
        "read": lambda: os.read(fd, 1),
        "read before": lambda: os.pread(fd, 1, -1),
        "a second view": lambda: mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ),
        "beyond": lambda: mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ, offset=size),
        "a part": lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ),
        "a private view": lambda: mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ),
        "executable": lambda: mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_EXEC),
        "seals": lambda: fcntl.fcntl(fd, 1033, 1),
        "a resized mapping": lambda: device.arena.resize(size * 2),
        "another doorbell": lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE, offset=1 << 32),
    }.items():
        try:
            attempt()
        except (OSError, ValueError, SystemError, BufferError):
            continue
        worked.append(name)
    return worked

def copy(device):
    """What lies at the arena's end by the kernel's copy and by its mapping, and what is read behind it."""
    fd, size = device._fd, len(device.arena)
    written = os.pwrite(fd, b"by the kernel", size - 100)
    seen = device.arena[size - 100 : size - 87].decode()
    device.arena[size - 100 : size - 87] = b"by the guest."
    return [written, seen, os.pread(fd, 13, size - 100).decode(), len(os.pread(fd, 1000, size - 100)), len(os.pread(fd, 1, size))]

def storm(device, times):
    def ring():
        for _ in range(times):
            device.ring()
    threads = [threading.Thread(target=ring) for _ in range(3)]
    for thread in threads:
        thread.start()
    ring()
    for thread in threads:
        thread.join()
    return times * 4

def scribble(device):
    import random
    for _ in range(50):
        device.arena[: 64 << 10] = random.randbytes(64 << 10)
        device.ring()
    return "still here"

def handler(event, context):
    if event["what"] == "resize":
        return resize(transport())
    if event["what"] == "copy":
        return copy(transport())
    if event["what"] == "storm":
        return storm(transport(), event["times"])
    if event["what"] == "scribble":
        return scribble(transport())
    return "served"
'''


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A node of microVMs, with a function that attacks and one that does not."""
    kvm.require()
    node = TestNode.start(tmp_path_factory.mktemp("node"), "kvm")
    folder = tmp_path_factory.mktemp("function")
    (folder / "attacks.py").write_text(HANDLER)
    for name in ("attacks", "bystander"):
        node.deploy(name, folder / "attacks.py", memory_mib=128, timeout_s=60, max_instances=2)
    try:
        assert node.invoke("bystander", {"what": "nothing"})[0] == "served"
        yield node
    finally:
        node.close()


def test_an_arena_cannot_be_resized_or_mapped_again(deployed):
    payload, response = deployed.invoke("attacks", {"what": "resize"})
    assert (payload, response.get("FunctionError")) == ([], None)
    assert deployed.invoke("attacks", {"what": "nothing"})[0] == "served"


def test_the_kernels_copies_end_where_the_arena_does(deployed):
    payload, response = deployed.invoke("attacks", {"what": "copy"})
    assert (payload, response.get("FunctionError")) == ([13, "by the kernel", "by the guest.", 100, 0], None)


def test_a_doorbell_without_end_leaves_the_others_served(deployed):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        storm = pool.submit(deployed.invoke, "attacks", {"what": "storm", "times": 20_000})
        while not storm.done():
            assert deployed.invoke("bystander", {"what": "nothing"})[0] == "served"
        payload, response = storm.result()
    assert (payload, response.get("FunctionError")) == (80_000, None)
    assert deployed.invoke("attacks", {"what": "nothing"})[0] == "served"


def test_rings_of_rubbish_end_their_instance_alone(deployed):
    _payload, response = deployed.invoke("attacks", {"what": "scribble"})
    assert response.get("FunctionError"), "an answer out of rubbish"
    assert deployed.invoke("bystander", {"what": "nothing"})[0] == "served"
    assert deployed.invoke("attacks", {"what": "nothing"})[0] == "served", "a new instance takes over"
