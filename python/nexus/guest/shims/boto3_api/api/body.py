"""Bodies of the fast path: what PutObject sends, and GetObject's stream."""

import binascii
import io
import os
from collections.abc import Iterator
from typing import Any

from botocore.response import StreamingBody
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from ....device import ArenaBody, BackendError, Channel, Reply
from ....device.pages import Buffer
from .. import errors

try:
    from botocore.httpchecksum import StreamingChecksumBody
except ImportError:  # botocore before 1.23
    StreamingChecksumBody = None

try:
    from botocore.httpchecksum import _SUPPORTED_CHECKSUM_ALGORITHMS as _SUPPORTED
except ImportError:
    _SUPPORTED = ()

# Those that this botocore would check, and the host checks instead, in botocore's order of preference.
_ALGORITHMS = tuple(
    (name, f"x-amz-checksum-{name}")
    for name in ("crc64nvme", "crc32c", "crc32", "sha1", "sha256", "sha512")
    if name in _SUPPORTED and StreamingChecksumBody is not None
)


def outgoing(body: Any, limit: int) -> Buffer | None:
    """The bytes that botocore would send for `body`, or None where real botocore should do it.

    Files are read from their position on, as botocore does, and left at their end. Everything over `limit` bytes is
    real botocore's, which can rewind and send again.
    """
    if type(body) is bytes or type(body) is bytearray:
        return body if len(body) <= limit else None
    if type(body) is str:
        try:
            encoded = body.encode("utf-8")
        except UnicodeEncodeError:
            return None
        return encoded if len(encoded) <= limit else None
    if type(body) is io.BytesIO:
        return body.read() if body.getbuffer().nbytes - body.tell() <= limit else None
    if type(body) is io.BufferedReader and body.seekable():
        try:
            size = os.fstat(body.fileno()).st_size
        except OSError:  # it reads something that is no file
            return None
        return body.read() if size - body.tell() <= limit else None
    if type(body).__module__ == "s3transfer.utils" and type(body).__name__ == "ReadFileChunk":
        return _file_chunk(body, limit)
    return None


def _file_chunk(body: Any, limit: int) -> bytes | None:
    """s3transfer's part of a file, whose progress callbacks are on only while it is really being sent."""
    if len(body) > limit:
        return None
    body.signal_transferring()
    data: bytes = body.read()
    return data


class ArenaStream(ArenaBody):
    """GetObject's raw stream: errors as urllib3's responses raise them."""

    def __init__(self, channel: Channel, reply: Reply) -> None:
        super().__init__(channel, reply, _as_urllib3)


class CopiedStream(io.BytesIO):
    """GetObject's raw stream, all of which is there: like urllib3's responses, not seekable, and empty once closed."""

    closed = False

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation("seek")

    def truncate(self, size: int | None = None, /) -> int:
        raise io.UnsupportedOperation("truncate")

    def write(self, data: Any, /) -> int:
        raise io.UnsupportedOperation("write")

    def getbuffer(self) -> memoryview:
        """All that is left, read-only."""
        return memoryview(self.read())

    def stream(self, amt: int = 1 << 16, decode_content: bool | None = None) -> Iterator[bytes]:
        """The rest, in pieces of up to `amt` bytes: as urllib3's responses give it."""
        while chunk := self.read(amt):
            yield chunk

    def release_conn(self) -> None:
        """Nothing: connections are the host's."""

    def close(self) -> None:
        """Give up what is unread."""
        self.closed = True
        self.read()


def _as_urllib3(error: BackendError, partial: bytes, missing: int | None) -> BaseException:
    streamed = errors.as_streamed(error, partial, missing)
    if isinstance(streamed, TimeoutError):
        return ReadTimeoutError(None, "", "Read timed out.")  # type: ignore[arg-type]
    if isinstance(streamed, BackendError) or type(streamed).__module__ == "http.client":
        return ProtocolError(f"Connection broken: {streamed!r}", streamed)
    return streamed


class _Verified:
    """Stands for a checksum that the host verifies while it reads: always as expected."""

    def __init__(self, expected: str) -> None:
        self._expected = expected

    def update(self, chunk: bytes) -> None:
        """Nothing: the bytes were counted where they came in."""

    def digest(self) -> bytes:
        return binascii.a2b_base64(self._expected)

    def b64digest(self) -> str:
        return self._expected


def usual(member: str) -> dict[str, Any]:
    """Of what the native module makes a Body that was copied, as `incoming` would: the fields of its `Payload`."""
    return {
        "member": member,
        "stream": CopiedStream,
        "plain": StreamingBody,
        "checked": StreamingChecksumBody,
        "verified": _Verified,
        "checksums": list(_ALGORITHMS),
    }


def incoming(channel: Channel, reply: Reply, headers: dict[str, str], *, verify: bool) -> tuple[StreamingBody, str | None]:
    """The stream for a result's Body, of the class that botocore would use, and the checksum's name where one applies."""
    stream: ArenaStream | CopiedStream
    data = reply.data
    stream = ArenaStream(channel, reply) if data is None or reply.more else CopiedStream(data)
    length = headers.get("content-length")
    body: StreamingBody
    algorithm = None
    for name, header in _ALGORITHMS if verify else ():
        expected = headers.get(header)
        if expected is not None and "-" not in expected:
            algorithm = name
            body = StreamingChecksumBody(stream, length, _Verified(expected), expected)
            break
    else:
        body = StreamingBody(stream, length)
    body.getbuffer = stream.getbuffer
    return body, algorithm
