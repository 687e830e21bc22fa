"""Request bodies of every kind that botocore accepts, into the arena: in one piece where they fit, else in parts."""

from collections.abc import Iterator
from typing import Any

from ... import abi
from ...device import Channel, Reply, waiting
from ...device.ticket import Ticket

_PIECE = 1 << 18


def submit_with_body(
    channel: Channel,
    operation: int,
    head: bytes,
    body: Any,
    room_min: int,
    room_max: int,
) -> Ticket:
    """Submit a request with `body`: None, text, bytes-like, a file or an iterable of bytes."""
    if body is None:
        body = b""
    elif isinstance(body, str):
        body = body.encode("utf-8")
    limit = channel.room_limit
    if isinstance(body, (bytes, bytearray, memoryview)):
        view = memoryview(body).cast("B")
        if len(view) <= limit:
            return channel.submit(operation, head, view, room_min=room_min, room_max=room_max)[1]
        pieces: Iterator[Any] = (view[at : at + limit // 2] for at in range(0, len(view), limit // 2))
        return _in_parts(channel, operation, head, pieces, room_min, room_max)
    pieces = _pieces(body)
    first: list[bytes] = []
    size = 0
    for piece in pieces:
        first.append(piece)
        size += len(piece)
        if size > limit // 2:
            return _in_parts(channel, operation, head, _after(first, pieces), room_min, room_max)
    return channel.submit(operation, head, b"".join(first), room_min=room_min, room_max=room_max)[1]


def _after(first: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield b"".join(first)
    first.clear()
    yield from rest


def _pieces(body: Any) -> Iterator[bytes]:
    read = getattr(body, "read", None)
    source = iter(lambda: read(_PIECE), b"") if read is not None else iter(body)
    while True:
        with waiting:  # the program's own code, which may block
            piece = next(source, b"")
        if not piece:
            return
        yield piece.encode("utf-8") if isinstance(piece, str) else piece


def _in_parts(channel: Channel, operation: int, head: bytes, pieces: Iterator[Any], room_min: int, room_max: int) -> Ticket:
    with channel.streaming():
        identity, ticket = channel.submit(operation, head, room_min=room_min, room_max=room_max, flags=abi.STREAM_BODY)
        try:
            _send(channel, identity, pieces)
        except BaseException:
            channel.forget(identity, ticket)
            raise
        # The lead of the wait for the answer is the caller's; the semaphore only guards the parts.
        return ticket


def _send(channel: Channel, identity: int, pieces: Iterator[Any]) -> None:
    held = next(pieces, b"")
    while True:
        following = next(pieces, None)
        flags = 0 if following is None else abi.MORE_BODY
        _, part = channel.submit(abi.BODY, b"", held, flags=flags, stream=identity, room_max=1024)
        reply = Reply(channel, part)
        reply.release()
        if following is None or reply.status < 0:
            return  # where the backend wants no more, the request itself says why
        held = following
