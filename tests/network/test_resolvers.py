"""Programs that do not use the host's C library look names up by the function's resolver, under its policy."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from framework.node import TestNode

pytestmark = pytest.mark.kvm

_SOURCES = Path(__file__).parents[1] / "programs" / "guests"

HANDLER = """
import subprocess
from pathlib import Path

def handler(event, context):
    program = Path(__file__).with_name("resolve")
    return subprocess.run([program, *event], capture_output=True, text=True, timeout=50, check=True).stdout.splitlines()
"""


def _musl(program: Path) -> list[str]:
    return ["musl-gcc", "-O1", "-static", "-o", str(program), str(_SOURCES / "resolve.c")]


def _go(program: Path) -> list[str]:
    return ["go", "build", "-o", str(program), str(_SOURCES / "resolve.go")]


@pytest.mark.parametrize(("build", "package"), [(_musl, "musl-tools"), (_go, "golang-go")], ids=["musl", "go"])
def test_names_under_the_policy(kvm_node: TestNode, tmp_path: Path, build, package: str) -> None:
    folder = tmp_path / "function"
    folder.mkdir()
    command = build(folder / "resolve")
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: apt-get install {package}")
    surroundings = os.environ | {"GOCACHE": str(tmp_path / "cache"), "CGO_ENABLED": "0", "GO111MODULE": "off"}
    subprocess.run(command, check=True, env=surroundings, timeout=200)
    (folder / "resolves.py").write_text(HANDLER)
    host = socket.gethostname()
    try:
        expected = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, 80)})
    except socket.gaierror:
        pytest.skip("this machine does not know its own name")
    name = f"resolves-{package}"
    kvm_node.deploy(name, folder, "resolves.handler", timeout_s=60, memory_mib=512, policy={"egress": [f"{host}:80"]})
    payload, response = kvm_node.invoke(name, ["localhost", host, "secret.example.org"])
    assert not response.get("FunctionError"), payload
    own, allowed, denied = payload
    assert sorted(own.split()) == ["127.0.0.1", "::1", "localhost"]
    assert sorted(allowed.split()) == sorted([host, *expected])
    # Refused: some programs call that an error, others would ask another server.
    assert denied in {"secret.example.org error", "secret.example.org try again", "secret.example.org no name"}
