"""Any result or exception as plain data, the same from run to run: what two runs of one program are compared by."""

import datetime as dt
import re
from typing import Any

VOLATILE_HEADERS = {"date", "x-amz-request-id", "x-amzn-requestid", "x-amz-id-2", "last-modified", "connection", "server"}
# What the client's own request leaves in a stand-in server's answers.
ECHOED_HEADERS = {"x-amz-content-sha256", "x-amz-sdk-checksum-algorithm"}
_PORT = re.compile(r"127\.0\.0\.1:[0-9]{4,5}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|0x[0-9a-f]{8,}|/tmp/tmp\w+")


def describe(value: Any, bucket: str) -> Any:
    """`value` with its types; dates, request ids and the bucket's name replaced."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return _UUID.sub("<uuid>", _PORT.sub("<stub>", value.replace(bucket, "<bucket>")))
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        return {"bytes": kind, "length": len(data), "start": data[:40].hex(), "sum": sum(data)}
    if isinstance(value, dt.datetime):
        return {"date": kind, "zone": repr(value.tzinfo), "year": value.year}
    if isinstance(value, BaseException):
        return exception(value, bucket)
    if isinstance(value, dict):
        return [[describe(key, bucket), _member(key, item, bucket)] for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [kind, *(describe(item, bucket) for item in value)]
    return {"object": kind}


def _member(key: Any, item: Any, bucket: str) -> Any:
    if key in {"RequestId", "HostId"}:
        return type(item).__name__
    if key == "HTTPHeaders":
        kept = {k: v for k, v in item.items() if k not in VOLATILE_HEADERS | ECHOED_HEADERS}
        return {"headers": type(item).__name__, **{k: describe(v, bucket) for k, v in sorted(kept.items())}}
    if key == "Metadata" and isinstance(item, dict):  # a server may send these headers in any order
        return sorted(describe(item, bucket))
    return describe(item, bucket)


def exception(error: BaseException, bucket: str) -> Any:
    """Class, bases, text and response of an exception."""
    return {
        "raised": f"{type(error).__module__}.{type(error).__qualname__}",
        "bases": [base.__qualname__ for base in type(error).__mro__],
        "text": describe(str(error), bucket),
        "response": describe(getattr(error, "response", None), bucket),
        "operation": getattr(error, "operation_name", None),
    }
