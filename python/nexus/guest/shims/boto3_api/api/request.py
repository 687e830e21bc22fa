"""Requests of the fast path: parameters to headers and query, by botocore's own service model.

`build` returns None for whatever is not plainly right; real botocore then does the call, and reports what is wrong
with it in its own words.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from botocore.handlers import handle_copy_source_param
from botocore.model import OperationModel

# Names that every region accepts. Access points, ARNs, directory buckets and old names in capitals: real botocore.
_BUCKET = re.compile(
    r"(?!.*(?:--[a-z0-9]+-s3|-s3alias|--ol-s3|--table-s3)\Z)(?!\d+\.\d+\.\d+\.\d+\Z)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"
)
_ODD_SEGMENT = re.compile(r"(?:\A|/)\.{1,2}(?:/|\Z)")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Members whose handling in botocore is more than copying; and those that would change who computes checksums.
_LEFT_OUT = frozenset(
    {
        "ChecksumAlgorithm",
        "ContentLength",
        "ContentMD5",
        "CreateBucketConfiguration",
        "Expires",
        "MFA",
        "OptionalObjectAttributes",
        "SSECustomerAlgorithm",
        "SSECustomerKey",
        "SSECustomerKeyMD5",
        "CopySourceSSECustomerAlgorithm",
        "CopySourceSSECustomerKey",
        "CopySourceSSECustomerKeyMD5",
        "SSEKMSEncryptionContext",
        "WriteOffsetBytes",
    }
)
Pairs = list[list[str]]
Check = Callable[[Any], str | None]
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _header_text(value: Any) -> str | None:
    if type(value) is str and value and value.isascii() and value.isprintable() and value.strip() == value:
        return value
    return None


def _query_text(value: Any) -> str | None:
    return value if type(value) is str else None


def _copy_source(value: Any) -> str | None:
    """Text or {"Bucket", "Key", "VersionId"} as botocore encodes it; raises its ParamValidationError."""
    if type(value) is not str and type(value) is not dict:
        return None
    params = {"CopySource": value}
    handle_copy_source_param(params)
    source = params["CopySource"]
    return None if "arn:" in source else _header_text(source)


def _integer(value: Any) -> str | None:
    return str(value) if type(value) is int else None


def _boolean(value: Any) -> str | None:
    return ("true" if value else "false") if type(value) is bool else None


class RequestPlan:
    """How one operation's parameters become a request's head."""

    def __init__(self, operation: OperationModel) -> None:
        self.name = operation.name
        self._headers: dict[str, tuple[str, Check]] = {}
        self._query: dict[str, tuple[str, Check]] = {}
        self._constant_query: Pairs = []
        shape = operation.input_shape
        self._needs_key = shape is not None and "Key" in shape.members
        self._needs_bucket = shape is not None and "Bucket" in shape.members
        self._metadata = shape is not None and "Metadata" in shape.members
        self.takes_body = self.name == "PutObject"
        for name, member in shape.members.items() if shape is not None else ():
            location = member.serialization.get("location")
            wire = member.serialization.get("name", name)
            checks: dict[str, Check] = {"integer": _integer, "long": _integer, "boolean": _boolean}
            if name in _LEFT_OUT:
                continue
            if name == "CopySource":
                self._headers[name] = (wire, _copy_source)
            elif location == "header" and member.type_name in {"string", *checks}:
                self._headers[name] = (wire, checks.get(member.type_name, _header_text))
            elif location == "querystring" and member.type_name in {"string", *checks}:
                self._query[name] = (wire, checks.get(member.type_name, _query_text))
        self._checksum_mode = "ChecksumMode" in self._headers and bool(
            operation.http_checksum.get("requestValidationModeMember")
        )

    def build(self, params: dict[str, Any], region: str, endpoint: str | None, *, validates: bool) -> bytes | None:
        """The request's head (JSON), or None where real botocore should look at it."""
        bucket = key = None
        headers: Pairs = []
        query: Pairs = []
        for name, value in params.items():
            if name in self._headers:
                wire, check = self._headers[name]
                text = check(value)
                if text is None:
                    return None
                headers.append([wire, text])
            elif name in self._query:
                wire, check = self._query[name]
                text = check(value)
                if text is None:
                    return None
                query.append([wire, text])
            elif name == "Bucket" and self._needs_bucket:
                bucket = value
            elif name == "Key" and self._needs_key:
                key = value
            elif name == "Metadata" and self._metadata:
                if not _metadata(value, headers):
                    return None
            elif not (name == "Body" and self.takes_body):
                return None
        if self._needs_bucket and (type(bucket) is not str or _BUCKET.fullmatch(bucket) is None):
            return None
        if self._needs_key and (type(key) is not str or not key or _ODD_SEGMENT.search(key) or len(key) > 1024):
            return None
        if self.name == "ListObjectsV2" and "EncodingType" not in params:
            query.append(["encoding-type", "url"])
        if self._checksum_mode and validates and "ChecksumMode" not in params:
            headers.append(["x-amz-checksum-mode", "ENABLED"])
        try:
            return _encode(
                {
                    "op": self.name,
                    "bucket": bucket,
                    "key": key,
                    "query": query,
                    "headers": headers,
                    "region": region,
                    "endpoint": endpoint,
                }
            ).encode("utf-8")
        except UnicodeEncodeError:  # lone surrogates
            return None


def _metadata(value: Any, headers: Pairs) -> bool:
    if type(value) is not dict:
        return False
    for name, item in value.items():
        text = _header_text(item)
        if type(name) is not str or text is None or _TOKEN.fullmatch(name) is None:
            return False
        headers.append([f"x-amz-meta-{name}", text])
    return True
