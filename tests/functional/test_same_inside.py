"""Scripts that print what programs see of the kernel: the same on the host and in a microVM."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from framework.cli import run
from nexus.packaging import interpreter

pytestmark = pytest.mark.kvm

_SCRIPTS = Path(__file__).parent / "scripts"


@pytest.mark.parametrize("script", sorted(p.stem for p in _SCRIPTS.glob("*.py")))
def test_says_the_same_inside(script: str, tmp_path: Path) -> None:
    if script == "ipv6" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6 to compare with")
    path = _SCRIPTS / f"{script}.py"
    python = str(interpreter.find().executable)
    native = subprocess.run(
        [python, "-I", str(path)],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    inside = run("run", "--ro", str(_SCRIPTS), python, "-I", str(path))
    assert inside.returncode == 0, inside.stderr
    assert inside.stdout.splitlines() == native.stdout.splitlines()


_NOWHERE = """
import errno, socket
for address in (("192.0.2.1", 80), ("10.0.0.1", 80), ("2001:db8::1", 80), ("fd00::1", 80), ("fe80::1", 80, 0, 2), ("::ffff:10.0.0.1", 80)):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    print(errno.errorcode[socket.socket(family).connect_ex(address)])
for family in (socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def test_no_address_outside_the_instance_is_reached() -> None:
    assert run("run", "python3", "-c", _NOWHERE).stdout.split() == ["ENETUNREACH"] * 6 + ["EAFNOSUPPORT"] * 3


def test_sockets_of_the_host_are_not_seen(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as hidden,
    ):
        named.bind(str(tmp_path / "socket"))
        named.listen()
        hidden.bind(b"\0nexus-host-name")
        hidden.listen()
        names = [str(tmp_path / "socket"), "\0nexus-host-name"]
        program = (
            "import errno, socket\n"
            f"print(errno.errorcode[socket.socket().connect_ex(('127.0.0.1', {server.getsockname()[1]}))])\n"
            f"for name in {names!r}: print(errno.errorcode[socket.socket(socket.AF_UNIX).connect_ex(name)])"
        )
        assert run("run", "--ro", str(tmp_path), "python3", "-c", program).stdout.split() == ["ECONNREFUSED"] * 3
