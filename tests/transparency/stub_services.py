"""A server that answers as several services do, and fails in several ways, for calls at level http."""

import contextlib
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

IDENTITY = (
    '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
    "<Arn>arn:aws:iam::1:user/u</Arn><UserId>U</UserId><Account>000000000001</Account></GetCallerIdentityResult>"
    "<ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
)
LIST = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>busy</Name><KeyCount>0</KeyCount></ListBucketResult>'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization", "")
        if not authorization.startswith("AWS4-HMAC-SHA256 Credential=") or "SignedHeaders=" not in authorization:
            self.answer(403, json.dumps({"__type": "UnsignedException", "message": authorization}))
            return
        target = self.headers.get("X-Amz-Target", "")
        if target.endswith("GetItem"):
            self.item(json.loads(body)["TableName"])
        elif target.endswith("SendMessage"):
            digest = hashlib.md5(json.loads(body)["MessageBody"].encode()).hexdigest()
            self.answer(200, json.dumps({"MessageId": "m-1", "MD5OfMessageBody": digest}))
        else:
            self.answer(200, IDENTITY, "text/xml")

    def item(self, table):
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
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
