"""Requests of the fast path: parameters to headers and query, by botocore's own service model.

`build` returns None for whatever is not plainly right; real botocore then does the call, and reports what is wrong
with it in its own words.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from botocore.handlers import copy_source_sse_md5, escape_xml_payload, handle_copy_source_param, sse_md5
from botocore.httpchecksum import _SUPPORTED_CHECKSUM_ALGORITHMS
from botocore.model import OperationModel
from botocore.serialize import RestXMLSerializer

from ....device.native import native

# Names that every region accepts. Access points, ARNs, directory buckets and old names in capitals: real botocore.
_BUCKET = re.compile(
    r"(?!.*(?:--[a-z0-9]+-s3|-s3alias|--ol-s3|--table-s3)\Z)(?!\d+\.\d+\.\d+\.\d+\Z)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"
)
_ODD_SEGMENT = re.compile(r"(?:\A|/)\.{1,2}(?:/|\Z)")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Operations whose keys botocore asks to be encoded, and decodes, unless the caller asks for an encoding.
_ENCODED = frozenset({"ListObjects", "ListObjectsV2", "ListObjectVersions"})
# Checksums that the host makes.
_CHECKSUMS = frozenset({"CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256", "SHA512"})
_FORMATS = {"header": RestXMLSerializer.HEADER_TIMESTAMP_FORMAT, "querystring": "iso8601"}
Pairs = list[list[str]]
Check = Callable[[Any], str | None]
# Names that have been found right; functions use few.
_MOST_BUCKETS = 64
_quote = json.encoder.encode_basestring
_buckets: set[str] = set()
_serializer = RestXMLSerializer()


class Request(NamedTuple):
    """A request's head (JSON), the XML document that is its body where it has one, and the body's length where told."""

    head: bytes
    document: bytes
    length: int | None


def _header_text(value: Any) -> str | None:
    if type(value) is str and value and value.isascii() and value.isprintable() and value.strip() == value:
        return value
    return None


def _pairs(pairs: Pairs) -> str:
    """As JSON."""
    return f"[{','.join([f'[{_quote(name)},{_quote(value)}]' for name, value in pairs])}]" if pairs else "[]"


def _is_bucket(value: Any) -> bool:
    if type(value) is not str or _BUCKET.fullmatch(value) is None:
        return False
    if len(_buckets) >= _MOST_BUCKETS:
        _buckets.clear()
    _buckets.add(value)
    return True


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


def _algorithm(value: Any) -> str | None:
    """A checksum that botocore would make with what is installed, and the host makes instead."""
    if type(value) is not str or value.upper() not in _CHECKSUMS or value.lower() not in _SUPPORTED_CHECKSUM_ALGORITHMS:
        return None
    return value


def _timestamp(form: str) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, datetime):
            return None
        text: str = _serializer._convert_timestamp_to_str(value, form)
        return text

    return check


def _list(value: Any) -> str | None:
    if type(value) is not list or not value:
        return None
    return ",".join(value) if all(type(item) is str and _TOKEN.fullmatch(item) for item in value) else None


_CHECKS: dict[str, Check] = {"integer": _integer, "long": _integer, "boolean": _boolean, "list": _list}


class RequestPlan:
    """How one operation's parameters become a request's head."""

    def __init__(self, operation: OperationModel) -> None:
        self.name = operation.name
        self._operation = operation
        self._headers: dict[str, tuple[str, Check]] = {}
        self._query: dict[str, tuple[str, Check]] = {}
        shape = operation.input_shape
        members = shape.members if shape is not None else {}
        self._required = frozenset(shape.required_members) if shape is not None else frozenset()
        self._needs_key = "Key" in members and members["Key"].serialization.get("location") == "uri"
        self._needs_bucket = "Bucket" in members
        self._metadata = "Metadata" in members
        payload = shape.serialization.get("payload") if shape is not None else None
        self.body = payload if payload is not None and members[payload].type_name == "blob" else None
        self._document = payload if payload != self.body else None
        self._keys = tuple(name for name in ("SSECustomerKey", "CopySourceSSECustomerKey") if name in members)
        algorithm = operation.http_checksum.get("requestAlgorithmMember")
        for name, member in members.items():
            location = member.serialization.get("location")
            if location not in _FORMATS:
                continue
            wire = member.serialization.get("name", name)
            plain = _header_text if location == "header" else _query_text
            check = _CHECKS.get(member.type_name, plain)
            if name == algorithm:
                check = _algorithm
            elif name == "CopySource":
                check = _copy_source
            elif member.type_name == "timestamp":
                check = _timestamp(member.serialization.get("timestampFormat", _FORMATS[location]))
            (self._headers if location == "header" else self._query)[name] = (wire, check)
        self._checksum_mode = "ChecksumMode" in self._headers and bool(
            operation.http_checksum.get("requestValidationModeMember")
        )
        self.native = native and self._simple(members)

    def _simple(self, members: dict[str, Any]) -> Any:
        """What does the usual parameters at a tenth of the cost, and leaves the others to `build`."""
        apart = {"ContentLength", *self._keys}
        usual = (_header_text, _query_text, _integer, _boolean)
        parameters = [
            (name, location is self._headers, wire, members[name].type_name)
            for location in (self._headers, self._query)
            for name, (wire, check) in location.items()
            if check in usual and name not in apart
        ]
        required = list(self._required - {"Bucket", "Key"})
        encoded = self.name in _ENCODED
        return native.Requests(
            self.name,
            parameters,
            required,
            self._needs_bucket,
            self._needs_key,
            self.body,
            encoded,
            self._checksum_mode,
            _buckets,
        )

    def head(self, params: dict[str, Any], region: str, endpoint: str | None, *, validates: bool, answers: Any = None) -> Any:
        """The head of an ordinary request, a native object; None for any other, which is `build`'s.

        `answers`: what reads the answer (:class:`ResponsePlan`'s).
        """
        if self.native is None:
            return None
        return self.native.build(params, region, endpoint, validates, answers)

    def build(
        self, client: Any, params: dict[str, Any], region: str, endpoint: str | None, *, validates: bool
    ) -> Request | None:
        """The request, or None where real botocore should look at it. Raises botocore's own validation errors."""
        bucket = key = length = None
        document = b""
        headers: Pairs = []
        query: Pairs = []
        if not self._required <= params.keys():
            return None
        for name in self._keys:
            if name in params:
                params = _with_digests(params)
                break
        for name, value in params.items():
            if name in self._headers:
                wire, check = self._headers[name]
                text = check(value)
                if text is None:
                    return None
                if name == "ContentLength":
                    length = value
                else:
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
            elif name == self._document and name is not None:
                document = self._serialised(client, params)
            elif name != self.body or name is None:
                return None
        if self._needs_bucket and not (type(bucket) is str and bucket in _buckets) and not _is_bucket(bucket):
            return None
        if self._needs_key and (
            type(key) is not str or not key or ("." in key and _ODD_SEGMENT.search(key)) or len(key) > 1024
        ):
            return None
        if self.name in _ENCODED and "EncodingType" not in params:
            query.append(["encoding-type", "url"])
        if self._checksum_mode and validates and "ChecksumMode" not in params:
            headers.append(["x-amz-checksum-mode", "ENABLED"])
        try:
            # Put together here, at a third of the cost of an encoder that has to look at everything.
            head = (
                f'{{"op":"{self.name}","bucket":{_quote(bucket) if bucket is not None else "null"},'
                f'"key":{_quote(key) if key is not None else "null"},'
                f'"query":{_pairs(query)},"headers":{_pairs(headers)},'
                f'"region":{_quote(region)},"endpoint":{_quote(endpoint) if endpoint is not None else "null"}}}'
            ).encode()
        except UnicodeEncodeError:  # lone surrogates
            return None
        return Request(head, document, length)

    def _serialised(self, client: Any, params: dict[str, Any]) -> bytes:
        """The XML document as botocore makes it; it looks at all parameters before."""
        made: dict[str, Any] = client._serializer.serialize_to_request(dict(params), self._operation)
        if self.name == "DeleteObjects":
            escape_xml_payload(made)
        body: bytes = made["body"]
        return body


def _with_digests(params: dict[str, Any]) -> dict[str, Any]:
    """With customers' keys in base64 and their MD5, as botocore sends them."""
    params = dict(params)
    sse_md5(params)
    copy_source_sse_md5(params)
    return params


def _metadata(value: Any, headers: Pairs) -> bool:
    if type(value) is not dict:
        return False
    for name, item in value.items():
        text = _header_text(item)
        if type(name) is not str or text is None or _TOKEN.fullmatch(name) is None:
            return False
        headers.append([f"x-amz-meta-{name}", text])
    return True
