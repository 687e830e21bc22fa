"""An S3 store in memory that keeps its history and fails on purpose."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate


@dataclass
class Applied:
    """One PUT that took effect."""

    at: float
    key: str
    text: str
    whole: bool
    conditional: bool


@dataclass
class Object:
    body: bytes
    etag: str
    modified: float


@dataclass
class FaultyStore:
    """Serves path-style S3 on loopback.

    ``fault_rate`` is the share of requests that meet a fault: an answer of 503, a stall, a reset before the request takes
    effect, in the middle of the answer's body, or after the effect and before the answer.
    """

    seed: int = 0
    fault_rate: float = 0.0
    down: bool = False
    delay_s: float = 0.0
    # Status that PUTs are refused with for good.
    refuse: int = 0
    # By object: seconds before it is looked at, and seconds from then to the answer.
    read_delays: dict[str, tuple[float, float]] = field(default_factory=dict)
    objects: dict[str, Object] = field(default_factory=dict)
    history: list[Applied] = field(default_factory=list)
    reads: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.random = random.Random(self.seed)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def write(self, key: str, text: str) -> None:
        """A write of somebody else's."""
        with self.lock:
            self._apply(key, text.encode(), conditional=False)

    def text(self, key: str) -> str | None:
        with self.lock:
            found = self.objects.get(key)
            return None if found is None else _text(found.body)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb", buffering=1 << 16) as stream:
            try:
                while self._one(connection, stream):
                    pass
            except (OSError, ValueError):
                pass

    def _fault(self) -> str:
        if self.down:
            return "503"
        with self.lock:
            if self.random.random() >= self.fault_rate:
                return ""
            return self.random.choice(["503", "stall", "reset before", "reset after", "reset in body"])

    def _one(self, connection: socket.socket, stream) -> bool:
        line = stream.readline().split()
        if len(line) != 3:
            return False
        method, target = line[0].decode(), line[1].decode().partition("?")[0]
        headers = {}
        while (row := stream.readline().strip()) != b"":
            name, _, value = row.partition(b":")
            headers[name.decode().lower()] = value.strip().decode()
        fault = self._fault()
        length = int(headers.get("content-length", 0))
        if fault == "reset before":
            stream.read(length // 2)
            return _reset(connection)
        body = stream.read(length)
        if len(body) != length:
            return False
        if fault == "503":
            return self._answer(connection, 503, {}, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
        if fault == "stall" or self.delay_s:
            time.sleep(0.25 if fault == "stall" else self.delay_s)
        # Whoever asked may be gone: a store would not know either, but then a test could not tell what may still come.
        connection.setblocking(False)
        try:
            if connection.recv(1, socket.MSG_PEEK) == b"":
                return False
        except BlockingIOError:
            pass
        finally:
            connection.setblocking(True)
        before, after = self.read_delays.get(target.lstrip("/"), (0, 0)) if method == "GET" else (0, 0)
        time.sleep(before)
        with self.lock:
            status, fields, content = self._do(method, target.lstrip("/"), headers, body)
        time.sleep(after)
        if fault == "reset after":
            return _reset(connection)
        if fault == "reset in body" and content and method == "GET":
            head = _head(status, fields, len(content))
            connection.sendall(head + content[: len(content) // 2])
            return _reset(connection)
        return self._answer(connection, status, fields, b"" if method == "HEAD" else content, len(content))

    def _answer(
        self, connection: socket.socket, status: int, fields: dict[str, str], content: bytes, length: int | None = None
    ) -> bool:
        connection.sendall(_head(status, fields, len(content) if length is None else length) + content)
        return True

    def _do(self, method: str, key: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        found = self.objects.get(key)
        match, none_match = headers.get("if-match"), headers.get("if-none-match")
        same = found is not None and match in {found.etag, "*"}
        if method == "PUT":
            if self.refuse:
                return self.refuse, {}, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            if match is not None and found is None:
                return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
            if (match is not None and not same) or (none_match == "*" and found is not None):
                return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
            etag = self._apply(key, body, conditional=match is not None or none_match is not None)
            return 200, {"ETag": etag, "x-amz-checksum-crc32": headers.get("x-amz-checksum-crc32", "")}, b""
        if method == "DELETE":
            self.objects.pop(key, None)
            return 204, {}, b""
        self.reads += 1
        if found is None:
            return 404, {}, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"
        fields = {"ETag": found.etag, "Last-Modified": formatdate(found.modified, usegmt=True)}
        if none_match == found.etag:
            return 304, fields, b""
        return 200, fields, found.body

    def _apply(self, key: str, body: bytes, *, conditional: bool) -> str:
        etag = '"' + hashlib.md5(body).hexdigest() + '"'
        text = _text(body)
        self.objects[key] = Object(body, etag, time.time())
        self.history.append(Applied(time.monotonic(), key, text, text.endswith("!"), conditional))
        return etag


def _text(body: bytes) -> str:
    return body.rstrip(b".").decode()


def _head(status: int, fields: dict[str, str], length: int) -> bytes:
    every = {"Date": formatdate(usegmt=True), "Content-Length": str(length), **{n: v for n, v in fields.items() if v}}
    if status in {204, 304}:
        del every["Content-Length"]
    return (f"HTTP/1.1 {status} X\r\n" + "".join(f"{n}: {v}\r\n" for n, v in every.items()) + "\r\n").encode()


def _reset(connection: socket.socket) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False
