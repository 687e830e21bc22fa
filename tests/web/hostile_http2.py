"""HTTP/2 servers that break the rules, each in its own way on a port of its own; run as web_servers.py is.

Frames are written by hand (RFC 9113, section 4.1; header fields as literals, RFC 7541, section 6.2.2): no library sends these.
"""

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path

import web_servers

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
# Frames of a flood are sent this many at a time.
_BATCH = 500


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def field(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


# ":status: 200" is entry 8 of the static table.
ANSWER = frame(HEADERS, END_HEADERS, 1, b"\x88" + field(b"content-type", b"application/grpc"))
MESSAGE = frame(DATA, 0, 1, b"\x00" + struct.pack(">I", 5) + b"hello")
GREETING = frame(SETTINGS, 0, 0)


def trailers(*fields):
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, b"".join(field(*pair) for pair in fields))


def flood(piece):
    """Sends it until nobody listens."""

    def act(connection):
        while True:
            connection.sendall(piece * _BATCH)

    return act


def say(*pieces, leave=False):
    """Sends these, then waits for the other side to go, or goes."""

    def act(connection):
        connection.sendall(b"".join(pieces))
        while not leave and connection.recv(1 << 16):
            pass

    return act


def headers_without_end(connection):
    connection.sendall(frame(HEADERS, 0, 1, b"\x88"))
    flood(frame(CONTINUATION, 0, 1, field(b"x-more", b"y" * 100)))(connection)


def data_without_content(connection):
    connection.sendall(ANSWER)
    flood(frame(DATA, 0, 1))(connection)


TEMPERS = {
    "leaves": say(leave=True),
    "garbage": say(b"\x00\xffnonsense" * 200),
    "speaks_http1": say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "silent": say(GREETING),
    "goes_away": say(GREETING, frame(GOAWAY, 0, 0, struct.pack(">II", 0, 11))),
    "resets": say(GREETING, frame(RST_STREAM, 0, 1, struct.pack(">I", 2))),
    "huge_frame": say(GREETING, b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"),
    "window_overflow": say(GREETING, frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 2),
    "huge_message": say(GREETING, ANSWER, frame(DATA, 0, 1, b"\x00\xff\xff\xff\xff" + b"x" * 100)),
    "no_trailers": say(GREETING, ANSWER, MESSAGE, frame(DATA, END_STREAM, 1)),
    "half_a_message": say(GREETING, ANSWER, MESSAGE[:-2], leave=True),
    "odd_status": say(GREETING, ANSWER, trailers((b"grpc-status", b"abc"))),
    "no_status": say(GREETING, ANSWER, trailers((b"other", b"1"))),
    "headers_flood": headers_without_end,
    "settings_flood": flood(GREETING),
    "ping_flood": flood(frame(PING, 0, 0, bytes(8))),
    "data_flood": data_without_content,
}


def _serve(listener, act):
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_meet, args=(connection, act), daemon=True).start()


def _meet(connection, act):
    """Acts when the request is there (the client's preface, settings and headers), so that its stream is open."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(15)
        connection.sendall(b"" if act in {TEMPERS["garbage"], TEMPERS["speaks_http1"]} else GREETING)
        connection.recv(1 << 16)
        time.sleep(0.1)
        act(connection)


@contextlib.contextmanager
def serve(folder: Path):
    listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in TEMPERS}
    for name, listener in listeners.items():
        threading.Thread(target=_serve, args=(listener, TEMPERS[name]), daemon=True).start()
    try:
        yield {"ports": {name: listener.getsockname()[1] for name, listener in listeners.items()}}
    finally:
        for listener in listeners.values():
            listener.close()


if __name__ == "__main__":
    web_servers.main(serve)
