"""Restored instances: their clocks are the host's, they can make copies of themselves, and of their files."""

import time

import pytest


@pytest.mark.kvm
def test_clocks_and_copies_of_a_restored_instance(node, handlers):
    node.deploy("copies", handlers / "copies.py", memory_mib=256, timeout_s=60)
    for _ in range(2):
        before = time.monotonic(), time.time()
        payload, _ = node.invoke("copies", {})
        after = time.monotonic(), time.time()
        clocks = payload["clocks"]
        assert before[0] <= clocks["monotonic"] <= after[0]
        assert before[1] <= clocks["time"] <= after[1]
        if node.isolation == "kvm":
            assert clocks["cpu"] == 0
            assert clocks["cheap"], "a clock or the CPU's number takes an exit"
        assert payload["copied"], payload
        assert "fork" in payload["call"], payload
        assert payload["after"] == 200
        node.admin("POST", "/nexus/v1/functions/copies/evict")


@pytest.mark.kvm
def test_a_copy_of_a_functions_file_can_be_changed(node, handlers):
    if node.isolation != "kvm":
        pytest.skip("a jailed process has the host's files")
    node.deploy("own-files", handlers / "own_files.py", memory_mib=128)
    payload, _ = node.invoke("own-files", {})
    mode = (handlers / "own_files.py").stat().st_mode & 0o777
    assert payload == {"mode": mode, "grown": 10, "refused": "Read-only file system", "writable": False}
