"""A server that answers as several services do, and fails in several ways, for calls at level http."""

import base64
import contextlib
import hashlib
import json
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

IDENTITY = (
    '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
    "<Arn>arn:aws:iam::1:user/u</Arn><UserId>U</UserId><Account>000000000001</Account></GetCallerIdentityResult>"
    "<ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
)
LIST = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>busy</Name><KeyCount>0</KeyCount></ListBucketResult>'


def message(headers, payload):
    """One message of an event stream: prelude, headers, payload, each with its checksum."""
    encoded = b""
    for name, value in {":message-type": "event", **headers}.items():
        encoded += bytes([len(name)]) + name.encode() + b"\7" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(encoded) + len(payload), len(encoded))
    whole = prelude + struct.pack(">I", zlib.crc32(prelude)) + encoded + payload
    return whole + struct.pack(">I", zlib.crc32(whole))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization", "")
        if not authorization.startswith("AWS4-HMAC-SHA256 Credential=") or "SignedHeaders=" not in authorization:
            self.answer(403, json.dumps({"__type": "UnsignedException", "message": authorization}))
            return
        target = self.headers.get("X-Amz-Target", "")
        if answer := self.event_stream(target):
            self.stream(answer)
            return
        if target.endswith("GetItem"):
            self.item(json.loads(body)["TableName"])
        elif target.endswith("SendMessage"):
            digest = hashlib.md5(json.loads(body)["MessageBody"].encode()).hexdigest()
            self.answer(200, json.dumps({"MessageId": "m-1", "MD5OfMessageBody": digest}))
        else:
            self.answer(200, IDENTITY, "text/xml")

    def do_PUT(self):
        """A bucket, of which nothing is kept."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(200, "", "application/xml")

    def event_stream(self, target):
        """The parts of an answer that is an event stream, where the call is one that has such."""
        if self.path.startswith("/2021-11-15/functions/"):
            return self.invoked(self.path.split("/")[3])
        if target.endswith("SubscribeToShard"):
            return self.subscribed()
        if self.path.startswith("/model/"):
            return self.inferred()
        return self.selected() if "?select" in self.path else None

    def invoked(self, mark):
        gone_on = self.server.gone_on.setdefault(mark, threading.Event())
        yield message({":event-type": "PayloadChunk"}, b"first")
        # The rest is sent once the client, which has to have the first part for that, calls again.
        yield message({":event-type": "PayloadChunk"}, b"second" if gone_on.wait(10) else b"nobody had the first")
        for number in range(5):
            yield message({":event-type": "PayloadChunk"}, bytes([number]) * 10_000)
        yield message(
            {":event-type": "InvokeComplete"}, b'{"ErrorCode": "Unhandled", "ErrorDetails": "d", "LogResult": "bG9n"}'
        )

    def subscribed(self):
        yield message({":event-type": "initial-response"}, b"{}")
        record = {"Data": "ZGF0YQ==", "PartitionKey": "p", "SequenceNumber": "1"}
        for number in range(3):
            event = {"Records": [record] * number, "ContinuationSequenceNumber": str(number), "MillisBehindLatest": number}
            yield message({":event-type": "SubscribeToShardEvent"}, json.dumps(event).encode())
        yield message({":message-type": "exception", ":exception-type": "ResourceInUseException"}, b'{"message": "in use"}')

    def inferred(self):
        for text in (b"Once", b" upon"):
            yield message({":event-type": "chunk"}, json.dumps({"bytes": base64.b64encode(text).decode()}).encode())
        damaged = bytearray(message({":event-type": "chunk"}, b'{"bytes": "YQ=="}'))
        damaged[-1] ^= 1
        yield bytes(damaged)

    def selected(self):
        yield message({":event-type": "Records", ":content-type": "application/octet-stream"}, b"a,b\nc")
        yield message({":event-type": "Cont"}, b"")
        yield message({":event-type": "Records", ":content-type": "application/octet-stream"}, b",d\n")
        if self.path.startswith("/cut"):
            yield message({":event-type": "Records"}, b"never whole")[:30]
            return
        if self.path.startswith("/fails"):
            yield message({":message-type": "error", ":error-code": "InternalError", ":error-message": "it failed"}, b"")
            return
        details = b"<Details><BytesScanned>8</BytesScanned><BytesProcessed>8</BytesProcessed><BytesReturned>8</BytesReturned></Details>"
        yield message({":event-type": "Stats", ":content-type": "text/xml"}, b"<Stats>" + details + b"</Stats>")
        yield message({":event-type": "End"}, b"")

    def stream(self, parts):
        """Answer with these, one chunk each."""
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.amazon.eventstream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("x-amzn-RequestId", "request-1")
        self.end_headers()
        for part in parts:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def item(self, table):
        if table.startswith("go-on-"):
            self.server.gone_on[table.removeprefix("go-on-")].set()
        if table == "missing":
            kind = "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException"
            self.answer(400, json.dumps({"__type": kind, "message": "no table"}))
        elif table == "cut":
            self.close_connection = True
        elif table == "slow":
            time.sleep(2)
            self.close_connection = True
        elif table == "busy" and self.first("item"):
            self.answer(500, json.dumps({"__type": "InternalServerError"}))
        else:
            self.answer(200, json.dumps({"Item": {"id": {"S": "1"}, "n": {"N": "1.5"}}}))

    def do_GET(self):
        if self.path.startswith("/broken"):
            self.close_connection = True
        elif self.path.startswith("/half"):
            self.answer(200, "x" * 1000, "binary/octet-stream", length=5000)
            self.close_connection = True
        elif self.path.startswith("/busy") and self.first("list"):
            self.answer(503, "<Error><Code>SlowDown</Code><Message>later</Message></Error>", "application/xml")
        else:
            self.answer(200, LIST, "application/xml")

    def first(self, what):
        seen = self.server.seen
        known = what in seen
        seen.add(what)
        return not known

    def answer(self, status, text, kind="application/x-amz-json-1.0", length=None):
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(content)))
        self.send_header("x-amzn-RequestId", "request-1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve():
    """URL of a running server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = set()
    server.gone_on = {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
