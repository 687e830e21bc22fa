"""What gRPC puts on the wire: metadata, message frames, statuses (its PROTOCOL-HTTP2 document)."""

import base64
import re
import zlib
from typing import Any
from urllib.parse import unquote_to_bytes

Pairs = list[tuple[str, str]]
_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
# Headers that are HTTP's or the core's own business.
_HIDDEN = frozenset({"content-type", "grpc-status", "grpc-message", "grpc-encoding", "grpc-accept-encoding", "te", "trailer"})
ENCODINGS = {1: "deflate", 2: "gzip"}
ACCEPTED = "identity, deflate, gzip"


def outgoing(metadata: Any) -> Pairs:
    """Metadata as it is sent. Raises ValueError where it is none, TypeError as grpcio's core does."""
    pairs: Pairs = []
    for key, value in metadata or ():
        name = _text(key)
        if name.endswith("-bin"):
            if not isinstance(value, bytes):
                raise TypeError(f'Binary metadata key="{name}" expected bytes, got {type(value)}')
            text = base64.b64encode(value).rstrip(b"=").decode()
        else:
            text = _text(value)
        if not _KEY.fullmatch(name) or not _VALUE.fullmatch(text):
            raise ValueError(f"metadata was invalid: {metadata}")
        pairs.append((name, text))
    return pairs


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise TypeError(f"Expected str, not {type(value)}")
    return value


def incoming(pairs: Any, datum: Any) -> tuple[Any, ...]:
    """Metadata as the application sees it: `datum(key, value)` each."""
    found: list[Any] = []
    for name, value in pairs:
        if name in _HIDDEN:
            continue
        if name.endswith("-bin"):
            found.extend(datum(name, _unpadded(part)) for part in value.split(","))
        else:
            found.append(datum(name, value))
    return tuple(found)


def _unpadded(text: str) -> bytes:
    text = text.strip()
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return text.encode("latin-1")


def status(pairs: Any) -> tuple[int, str]:
    """Code and details of trailers."""
    fields = dict(pairs)
    try:
        code = int(fields["grpc-status"])
    except (KeyError, ValueError):
        code = 2
    return code, unquote_to_bytes(fields.get("grpc-message", "").encode("latin-1")).decode("utf-8", "replace")


def frame(message: bytes, encoding: str | None) -> bytes:
    """A message with its prefix."""
    if encoding is None or not message:
        return b"\0" + len(message).to_bytes(4, "big") + message
    packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    packed = packer.compress(message) + packer.flush()
    if len(packed) >= len(message):
        return b"\0" + len(message).to_bytes(4, "big") + message
    return b"\1" + len(packed).to_bytes(4, "big") + packed


class Unframer:
    """Messages out of the bytes of an answer."""

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self.encoding: str | None = None

    def feed(self, data: memoryview) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next message, if it is whole. Raises ValueError with a code and details."""
        if len(self._buffer) < 5:
            return None
        length = int.from_bytes(self._buffer[1:5], "big")
        if 0 <= self._limit < length:
            raise ValueError(8, f"CLIENT: Received message larger than max ({length} vs. {self._limit})")
        if len(self._buffer) < 5 + length:
            return None
        packed, message = self._buffer[0] & 1, bytes(self._buffer[5 : 5 + length])
        del self._buffer[: 5 + length]
        return self._unpacked(message) if packed else message

    def _unpacked(self, message: bytes) -> bytes:
        if self.encoding not in {"gzip", "deflate"}:
            raise ValueError(13, f"Invalid encoding {self.encoding}")
        unpacker = zlib.decompressobj(wbits=47)
        try:
            data = unpacker.decompress(message, self._limit + 1 if self._limit >= 0 else 0)
        except zlib.error:
            raise ValueError(13, "Unexpected error decompressing data for algorithm") from None
        if 0 <= self._limit < len(data):
            raise ValueError(8, f"CLIENT: Received message larger than max ({len(data)} vs. {self._limit})")
        return data
