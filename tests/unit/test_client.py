"""The client of the node's API, against servers that answer as they like."""

from __future__ import annotations

import socket
import threading

import pytest
from nexus.client import Client
from nexus.errors import NexusError


def serve_once(answer: bytes) -> str:
    """A server that takes one request's head, answers, and closes with the rest of it unread, as by a reset."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        connection, _ = listener.accept()
        connection.recv(1024)
        connection.sendall(answer)
        connection.close()
        listener.close()

    threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_answer_that_came_before_the_request_was_sent_is_read() -> None:
    url = serve_once(b"HTTP/1.1 413 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    status, headers, body = Client(url).send("POST", "/", b"x" * (20 << 20))
    assert (status, headers["connection"], body) == (413, "close", b"no")


def test_a_node_that_answers_nothing_cannot_be_reached() -> None:
    with pytest.raises(NexusError, match="cannot be reached"):
        Client(serve_once(b"")).send("POST", "/", b"x" * (20 << 20))
