"""A conversation's addresses look as a socket's do."""

from __future__ import annotations

import socket

import pytest
from nexus.guest.shims.web.sockets import WebSocket


@pytest.mark.parametrize(
    ("text", "address", "family"),
    [
        ("10.1.2.3:443", ("10.1.2.3", 443), socket.AF_INET),
        ("[2001:db8::1]:80", ("2001:db8::1", 80, 0, 0), socket.AF_INET6),
    ],
)
def test_addresses_of_both_families(text: str, address: tuple[object, ...], family: int) -> None:
    conversation = WebSocket.__new__(WebSocket)
    conversation.peer = {"address": text, "local": text}
    assert (conversation.getpeername(), conversation.getsockname()) == (address, address)
    assert conversation.family == family
