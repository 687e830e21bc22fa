"""The fast path run against answers made up here, before the snapshot: its code is loaded and specialised in it."""

import json
from typing import Any

from .... import abi
from ....device import Channel
from ....device.rehearsal import RehearsalTransport
from . import FastPath

_ROUNDS = 12
_HEADERS = [
    ["x-amz-request-id", "0"],
    ["x-amz-id-2", "0"],
    ["date", "Thu, 01 Jan 1970 00:00:00 GMT"],
    ["last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"],
    ["etag", '"0"'],
    ["content-length", "1024"],
    ["content-type", "binary/octet-stream"],
    ["x-amz-checksum-crc32", "AAAAAA=="],
]
_LIST = (
    b'<?xml version="1.0"?><ListBucketResult><Name>b</Name><EncodingType>url</EncodingType><Contents><Key>k</Key>'
    b"<LastModified>1970-01-01T00:00:00.000Z</LastModified><Size>1</Size></Contents></ListBucketResult>"
)
_ERROR = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>none</Message><Key>k</Key></Error>"


def _answer(operation: int, head: bytes) -> tuple[int, bytes, bytes]:
    request = json.loads(head)
    status, body = 200, b""
    if request["op"] == "GetObject":
        body = bytes(1024)
        if request["key"] == "missing":
            status, body = 404, _ERROR
    elif request["op"] == "ListObjectsV2":
        body = _LIST
    return 0, json.dumps({"status": status, "headers": _HEADERS, "retries": 0}).encode(), body


def rehearse(client: Any, original: Any) -> None:
    """Run each operation of an event's usual path. `client` is an S3 client of nobody's."""
    call = FastPath(Channel(RehearsalTransport(_answer, abi.MIN_SIZE)), client, original).method()
    for _ in range(_ROUNDS):
        call(client, "PutObject", {"Bucket": "bucket", "Key": "key", "Body": bytes(1024), "Metadata": {"a": "b"}})
        call(client, "PutObject", {"Bucket": "bucket", "Key": "key", "Body": bytes(1024)})
        body = call(client, "GetObject", {"Bucket": "bucket", "Key": "key"})["Body"]
        body.read(512)
        body.read()
        call(client, "HeadObject", {"Bucket": "bucket", "Key": "key"})
        call(client, "ListObjectsV2", {"Bucket": "bucket", "Prefix": "k"})
        try:
            call(client, "GetObject", {"Bucket": "bucket", "Key": "missing"})
        except client.exceptions.NoSuchKey as error:
            str(error)
