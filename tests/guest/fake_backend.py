"""A second implementation of the arena's other side, in Python: a test double for the node's backend.

It follows docs/abi.md and shares no code with the guest but the numbers in abi.py. S3 requests are built and signed
with botocore's own signer and sent with urllib3.
"""

import base64
import datetime as dt
import functools
import json
import mmap
import os
import queue
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.httpchecksum
import botocore.session
import urllib3
from nexus.guest import abi

SUBMISSION = struct.Struct("<QHHIIIIIIIQ16s")
COMPLETION = struct.Struct("<QiIIIIIQQ16x")
PYTHON_ROOT = Path(__file__).resolve().parents[2] / "python"


class Stream:
    """The rest of a body, kept on this side."""

    def __init__(self, source: Any, total: int) -> None:
        self.source = source
        self.total = total
        self.lock = threading.Lock()
        self.crc = 0
        self.expected: str | None = None
        self.ahead = b""
        self.broken: Failure | None = None
        # Its parts are handed over as they come, behind a first answer that has none.
        self.live = False
        self.announced = False

    def take(self, count: int) -> tuple[bytes, bool]:
        """Up to `count` bytes, and whether more follow."""
        if self.live:
            data = self.source.read1(count) if self.announced else b""
            more, self.announced = bool(data) or not self.announced, True
            return data, more
        parts = [self.ahead]
        have = len(self.ahead)
        while have <= count:
            try:
                piece = self.source.read(min(1 << 16, count + 1 - have))
            except urllib3.exceptions.HTTPError as error:
                late = isinstance(error, urllib3.exceptions.ReadTimeoutError)
                name = "ReadTimeoutError" if late else "IncompleteReadError"
                self.broken = Failure(abi.STATUS_TRANSPORT, name, str(error))
                break
            if not piece:
                break
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self.ahead = data[count:]
        data = data[:count]
        if self.broken is not None:
            if not data:
                raise self.broken
            return data, True
        self.crc = zlib.crc32(data, self.crc)
        if not self.ahead and self.expected is not None:
            actual = base64.b64encode(self.crc.to_bytes(4, "big")).decode()
            if actual != self.expected:
                raise Failure(abi.STATUS_TRANSPORT, "FlexibleChecksumError", f"{actual} is not {self.expected}")
        return data, bool(self.ahead)


class Failure(Exception):
    """A completion with a status below 0."""

    def __init__(self, status: int, name: str, message: str, endpoint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.head = {"error": name, "message": message, "endpoint": endpoint}


class Upload:
    """A request's body that comes in parts: a file for urllib3 to read."""

    def __init__(self) -> None:
        self.parts: queue.Queue[bytes | None] = queue.Queue(2)
        self.rest = b""
        self.over = False

    def read(self, count: int = -1) -> bytes:
        while not self.over and (count < 0 or len(self.rest) < count):
            part = self.parts.get(timeout=60)
            if part is None:
                self.over = True
            else:
                self.rest += part
        data, self.rest = (self.rest, b"") if count < 0 else (self.rest[:count], self.rest[count:])
        return data


class FakeBackend:
    """One instance's backend. `endpoint` is the S3 server; `credentials` a (key id, secret) pair."""

    def __init__(self, endpoint: str, credentials: tuple[str, str], size: int = abi.DEFAULT_SIZE) -> None:
        self.endpoint = endpoint
        self.credentials = botocore.credentials.Credentials(*credentials)
        self.arena_fd = os.memfd_create("arena")
        os.ftruncate(self.arena_fd, size)
        self.doorbell = os.eventfd(0, 0)
        self.completion = os.eventfd(0, 0)
        self.arena = mmap.mmap(self.arena_fd, size)
        struct.pack_into("<QII", self.arena, 0, abi.MAGIC, abi.VERSION, size)
        self.control = memoryview(self.arena)[: abi.SUBMIT_RING].cast("I")
        self.size = size
        self.lock = threading.Lock()
        self.streams: dict[int, Stream] = {}
        self.uploads: dict[int, Upload] = {}
        self.next_stream = 1
        self.pool = urllib3.PoolManager(maxsize=80, retries=False)
        self.events: queue.Queue[tuple[dict[str, Any], bytes]] = queue.Queue()
        self.outcomes: queue.Queue[tuple[int, bytes, dict[str, Any]]] = queue.Queue()
        self.init_error: dict[str, Any] | None = None
        self.operations: deque[tuple[int, dict[str, Any]]] = deque(maxlen=10_000)
        self.in_flight = 0
        self.most_in_flight = 0
        self.stopping = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    # -- rings -------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        head = 0
        while not self.stopping:
            os.eventfd_read(self.doorbell)
            tail = self.control[abi.CONTROL_SUBMIT_TAIL // 4]
            assert (tail - head) & 0xFFFFFFFF <= abi.RING_ENTRIES, "submission ring overflows"
            while head != tail:
                entry = SUBMISSION.unpack_from(self.arena, abi.SUBMIT_RING + (head % 64) * 64)
                head = (head + 1) & 0xFFFFFFFF
                self.control[abi.CONTROL_SUBMIT_HEAD // 4] = head
                with self.lock:
                    self.in_flight += 1
                    self.most_in_flight = max(self.most_in_flight, self.in_flight)
                threading.Thread(target=self._operate, args=(entry,), daemon=True).start()

    def _complete(self, entry: tuple[Any, ...], status: int, head: bytes, body: bytes, more: int, total: int) -> None:
        identity, room, room_length = entry[0], entry[7], entry[8]
        head = head[:room_length]
        start = (len(head) + 63) & -64
        assert not body or start + len(body) <= room_length, "reply larger than its room"
        self.arena[room : room + len(head)] = head
        self.arena[room + start : room + start + len(body)] = body
        with self.lock:
            tail = self.control[abi.CONTROL_COMPLETE_TAIL // 4]
            COMPLETION.pack_into(
                self.arena,
                abi.COMPLETE_RING + (tail % 64) * 64,
                identity,
                status,
                abi.MORE if more else 0,
                room if head else 0,
                len(head),
                room + start if body else 0,
                len(body),
                more,
                total,
            )
            self.control[abi.CONTROL_COMPLETE_TAIL // 4] = (tail + 1) & 0xFFFFFFFF
            self.in_flight -= 1
        os.eventfd_write(self.completion, 1)

    def _operate(self, entry: tuple[Any, ...]) -> None:
        _, operation, flags, head_at, head_length, body_at, body_length, room, room_length, _, stream, zero = entry
        try:
            for at, length in ((head_at, head_length), (body_at, body_length), (room, room_length)):
                assert length == 0 or (at >= abi.HEAP and at + length <= self.size), "outside the heap"
            assert zero == bytes(16)
            head = json.loads(self.arena[head_at : head_at + head_length] or b"{}")
            body: Any = self.arena[body_at : body_at + body_length]
            self.operations.append((operation, head))
            if flags & abi.STREAM_BODY and operation != abi.BODY:
                body = self.uploads[entry[0]] = Upload()
            self._dispatch(entry, operation, flags, head, body, stream)
        except urllib3.exceptions.HTTPError as error:
            failure = Failure(abi.STATUS_TRANSPORT, "ConnectionClosedError", str(error))
            self._complete(entry, failure.status, json.dumps(failure.head).encode(), b"", 0, 0)
        except Failure as failure:
            self._complete(entry, failure.status, json.dumps(failure.head).encode(), b"", 0, 0)

    def _dispatch(self, entry: tuple[Any, ...], operation: int, flags: int, head: Any, body: Any, stream: int) -> None:
        if operation == abi.NEXT:
            if flags & (abi.NEXT_RESULT | abi.NEXT_ERROR):
                data = body.read() if isinstance(body, Upload) else body
                self.outcomes.put((flags & 3, data, head))
            invocation, event = self.events.get()
            self._answer(entry, invocation, Stream(_Bytes(event), len(event)))
        elif operation == abi.INIT_ERROR:
            self.init_error = json.loads(body)
            self._complete(entry, 0, b"", b"", 0, 0)
        elif operation == abi.BODY:
            upload = self.uploads.get(stream)
            for _ in range(100):
                if upload is None:
                    time.sleep(0.01)
                    upload = self.uploads.get(stream)
            if upload is None:
                raise Failure(abi.STATUS_NO_STREAM, "NoStream", str(stream))
            upload.parts.put(body)
            if not flags & abi.MORE_BODY:
                upload.parts.put(None)
            self._complete(entry, 0, b"", b"", 0, 0)
        elif operation == abi.READ:
            source = self.streams.get(stream)
            if source is None:
                raise Failure(abi.STATUS_NO_STREAM, "NoStream", str(stream))
            with source.lock:
                self._answer(entry, None, source, stream)
        elif operation == abi.CLOSE:
            self.streams.pop(stream, None)
            self._complete(entry, 0, b"", b"", 0, 0)
        elif operation == abi.S3:
            self._s3(entry, head, body)
        elif operation == abi.HTTP:
            self._http(entry, head, body)
        elif operation == abi.PRESIGN:
            self._complete(entry, 0, json.dumps(self._presign(head)).encode(), b"", 0, 0)
        else:
            raise Failure(abi.STATUS_INVALID, "InvalidSubmission", f"operation {operation}")

    def _answer(self, entry: tuple[Any, ...], head: Any, source: Stream, stream: int = 0) -> None:
        text = b"" if head is None else json.dumps(head).encode()
        start = (len(text) + 63) & -64
        if start > entry[8]:
            raise Failure(abi.STATUS_NO_ROOM, "NoRoom", f"{len(text)} bytes of head")
        data, more = source.take(entry[8] - start)
        if more and not stream:
            with self.lock:
                stream = self.next_stream
                self.next_stream += 1
            self.streams[stream] = source
        if not more:
            self.streams.pop(stream, None)
        self._complete(entry, 0, text, data, stream if more else 0, source.total)

    # -- HTTP --------------------------------------------------------------------------------------------------

    def _s3(self, entry: tuple[Any, ...], head: dict[str, Any], body: Any) -> None:
        model = _s3_model().operation_model(head["op"])
        method = model.http["method"]
        fixed = parse_qsl(model.http["requestUri"].partition("?")[2], keep_blank_values=True)
        path = "/" + (head["bucket"] or "")
        if head["key"] is not None:
            path += "/" + quote(head["key"], safe="/-_.~")
        query = [*fixed, *((name, value) for name, value in head["query"])]
        url = (head["endpoint"] or self.endpoint) + path + ("?" + urlencode(query, quote_via=quote) if query else "")
        headers = list(head["headers"])
        names = {name.lower() for name, _ in headers}
        names -= {"x-amz-checksum-mode", "x-amz-checksum-type", "x-amz-checksum-algorithm"}
        if model.http_checksum.get("requestAlgorithmMember") and not any(n.startswith("x-amz-checksum-") for n in names):
            named = [value for name, value in headers if name == "x-amz-sdk-checksum-algorithm"] or ["CRC32"]
            digest = botocore.httpchecksum._CHECKSUM_CLS[named[0].lower()]().handle(body)
            headers = [pair for pair in headers if pair[0] != "x-amz-sdk-checksum-algorithm"]
            headers += [[f"x-amz-checksum-{named[0].lower()}", digest], ["x-amz-sdk-checksum-algorithm", named[0]]]
        self._send(entry, method, url, headers, body, ("s3", head["region"]), 60, 60)

    def _presign(self, head: dict[str, Any]) -> dict[str, Any]:
        request = botocore.awsrequest.AWSRequest(method=head["method"], url=head["url"], headers=dict(head.get("headers", [])))
        scope = (self.credentials, head["service"], head["region"])
        if head.get("conditions") is not None:
            until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=head["expires_s"])
            policy = {"expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"), "conditions": head["conditions"]}
            request.context["s3-presign-post-policy"] = policy
            botocore.auth.S3SigV4PostAuth(*scope).add_auth(request)
            return {"fields": list(request.context["s3-presign-post-fields"].items())}
        signer = botocore.auth.S3SigV4QueryAuth(*scope, expires=head["expires_s"])
        signer.payload = lambda _: head["payload_hash"]
        signer.add_auth(request)
        return {"url": request.url}

    def _http(self, entry: tuple[Any, ...], head: dict[str, Any], body: Any) -> None:
        sign = head["sign"]
        scope = (sign["service"], sign["region"]) if sign else None
        self._send(
            entry,
            head["method"],
            head["url"],
            head["headers"],
            body,
            scope,
            head["connect_timeout_s"],
            head["read_timeout_s"],
        )

    def _send(
        self,
        entry: tuple[Any, ...],
        method: str,
        url: str,
        headers: list[list[str]],
        body: Any,
        scope: tuple[str, str] | None,
        connect: float,
        read: float,
    ) -> None:
        fields = {name: value for name, value in headers if name.lower() not in {"expect"}}
        if scope is not None:
            assert not any(name.lower() == "authorization" for name in fields), "signed already"
            request = botocore.awsrequest.AWSRequest(method=method, url=url, headers=fields, data=b"")
            kind = botocore.auth.S3SigV4Auth if scope[0] == "s3" else botocore.auth.SigV4Auth
            if scope[0] == "s3":
                digest = fields.get("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD")
                signer = kind(self.credentials, *scope)
                signer.payload = lambda _request: digest
            else:
                request.data = body if isinstance(body, bytes) else b""
                signer = kind(self.credentials, *scope)
            signer.add_auth(request)
            fields = dict(request.headers.items())
            for name, value in fields.items():
                assert isinstance(value, str), (name, value)
        data = body if not isinstance(body, bytes) or body else None
        if body == b"" and method in {"PUT", "POST"}:
            fields = {**fields, "Content-Length": "0"}

        def attempt() -> Any:
            return self.pool.urlopen(
                method,
                url,
                body=data,
                headers=fields,
                preload_content=False,
                decode_content=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=connect, read=read),
            )

        retries = 0
        try:
            response = attempt()
            while (
                entry[1] == abi.S3 and response.status in {500, 502, 503, 504} and retries < 2 and not isinstance(data, Upload)
            ):
                retries += 1
                response = attempt()
        except urllib3.exceptions.NewConnectionError as error:
            raise Failure(abi.STATUS_TRANSPORT, "EndpointConnectionError", str(error), url) from error
        except urllib3.exceptions.ConnectTimeoutError as error:
            raise Failure(abi.STATUS_TRANSPORT, "ConnectTimeoutError", str(error), url) from error
        except urllib3.exceptions.ReadTimeoutError as error:
            raise Failure(abi.STATUS_TRANSPORT, "ReadTimeoutError", str(error), url) from error
        except urllib3.exceptions.ProtocolError as error:
            raise Failure(abi.STATUS_TRANSPORT, "ConnectionClosedError", str(error), url) from error
        total = response.headers.get("content-length")
        stream = Stream(response, int(total) if total else abi.UNKNOWN_LENGTH)
        stream.live = response.headers.get("Content-Type") == "application/vnd.amazon.eventstream"
        if entry[1] == abi.S3 and method == "GET" and response.status == 200:
            expected = response.headers.get("x-amz-checksum-crc32")
            stream.expected = expected if expected and "-" not in expected else None
        reply = {"status": response.status, "headers": [list(pair) for pair in response.headers.items()], "retries": retries}
        self._answer(entry, reply, stream)

    # -- the instance ------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """What a guest process needs in its environment."""
        return {
            abi.PROCESS_ENV: f"{self.arena_fd},{self.doorbell},{self.completion}",
            "AWS_ACCESS_KEY_ID": abi.PLACEHOLDER_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": abi.PLACEHOLDER_SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            abi.S3_ENDPOINT_ENV: self.endpoint,
        }

    def start(self, handler: str, root: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a runtime process for `handler` in the folder `root`."""
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PYTHON_ROOT),
            "NEXUS_MODULE_PATH": f"{root}{os.pathsep}{PYTHON_ROOT}",
            "LAMBDA_TASK_ROOT": str(root),
            "_HANDLER": handler,
            "AWS_LAMBDA_FUNCTION_NAME": "f",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            **self.environment(),
            **environment,
        }
        return subprocess.Popen(
            [sys.executable, "-B", "-m", "nexus.guest.runtime"],
            env=variables,
            pass_fds=(self.arena_fd, self.doorbell, self.completion),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=PYTHON_ROOT,
        )

    def invoke(self, event: bytes, timeout: float = 60, **invocation: Any) -> tuple[int, bytes, dict[str, Any]]:
        """Hand one event over and wait for its outcome: NEXT's flag, body and head."""
        head = {
            "request_id": "11111111-2222-3333-4444-555555555555",
            "deadline_ms": int(time.time() * 1000) + 30_000,
            "function_arn": "arn:aws:lambda:us-east-1:000000000000:function:f",
            "client_context": None,
            "identity": None,
            "trace_id": None,
            **invocation,
        }
        self.events.put((head, event))
        return self.outcomes.get(timeout=timeout)

    def last_words(self) -> list[str]:
        """What the guest's standard output and standard error hold of a line that has not ended."""
        found = []
        for place in (abi.LAST_WORDS, abi.LAST_WORDS + abi.LAST_WORDS_SIZE):
            (length,) = struct.unpack_from("<I", self.arena, place)
            found.append(bytes(self.arena[place + 4 : place + 4 + length]).decode())
        return found

    def close(self) -> None:
        self.stopping = True
        os.eventfd_write(self.doorbell, 1)
        self.thread.join(5)


@functools.cache
def _s3_model() -> Any:
    return botocore.session.get_session().get_service_model("s3")


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)

    def read(self, count: int) -> bytes:
        data, self.data = bytes(self.data[:count]), self.data[count:]
        return data
