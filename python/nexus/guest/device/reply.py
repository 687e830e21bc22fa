"""A completed operation: its head, and the part of its body that lies in the arena."""

import json
from typing import Any

from .. import abi
from .channel import COPIED, Channel
from .errors import BackendError, DeviceUnavailableError
from .heap import aligned
from .pages import Buffer
from .sections import guard
from .ticket import Head, Taken, Ticket


class Reply:
    """Owns the body's heap until `release`, where the body is not in `data`. `head` is the head's JSON text."""

    __slots__ = ("_channel", "body_length", "body_offset", "data", "head", "more", "status", "stream", "total_length")

    def __init__(self, channel: Channel, ticket: Ticket) -> None:
        """Wait for `ticket`, give back what is not needed."""
        completion = channel.wait(ticket)
        start = ticket.offset
        end = start + ticket.held
        room = end - ticket.room
        _, self.status, flags, head, head_length, body, length, self.stream, total = completion
        if (head_length and not room <= head <= end - head_length) or (length and not room <= body <= end - length):
            raise DeviceUnavailableError("the backend placed a reply outside its room")
        self._channel = channel
        self.more = flags & abi.MORE != 0
        self.total_length = None if total == abi.UNKNOWN_LENGTH else total
        self.body_length = length
        self.body_offset = 0
        self.data: bytes | None = None
        kept = body + aligned(length)
        channel.pages.touched = max(channel.pages.touched, kept)
        stays = length > COPIED or (length > 0 and self.more)
        try:
            self.head = channel.arena[head : head + head_length].decode() if head_length else ""
            if stays and not self.more:
                self.data = channel.take(start, end, body, length)
                if self.data is not None:
                    return
            if length and not stays:
                self.data = channel.pages.copy(body, body + length)
        except MemoryError:  # the program may go on, and the heap with it
            channel.release(start, end - start)
            raise
        if stays:
            self.body_offset = body
            channel.trim(start, end, body, kept)
            return
        if end > start:
            channel.release(start, end - start)

    @classmethod
    def of(cls, channel: Channel, taken: Taken) -> "Reply":
        """What `Channel.alone` brought."""
        reply = cls.__new__(cls)
        reply.status, flags, reply.head, data, offset, length, reply.stream, total = taken
        reply._channel = channel
        reply.more = flags & abi.MORE != 0
        reply.total_length = None if total == abi.UNKNOWN_LENGTH else total
        reply.body_length = length
        if length and data is None and length <= COPIED and not reply.more:
            try:
                data = channel.pages.copy(offset, offset + length)
            finally:  # where memory does not suffice, too
                channel.release(offset, aligned(length))
        reply.data = data
        reply.body_offset = offset if data is None else 0
        return reply

    @property
    def body(self) -> memoryview:
        """The body, or the part of it that has come. Of the arena it may be a view, valid until `release`."""
        if self.data is not None:
            return memoryview(self.data)
        return self._channel.pages.view(self.body_offset, self.body_offset + self.body_length)

    def release(self) -> None:
        """Give the body's heap back. May be called again."""
        length, self.body_length = self.body_length, 0
        if length and self.data is None:
            self._channel.release(self.body_offset, aligned(length))

    def check(self) -> None:
        """Raise BackendError where the operation failed."""
        if self.status < 0:
            self.release()
            try:
                head = json.loads(self.head)
            except ValueError:
                head = None
            raise BackendError.of(self.status, head)


def call(
    channel: Channel,
    operation: int,
    head: bytes = b"",
    body: Buffer = b"",
    *,
    room_min: int = 0,
    room_max: int = 0,
    flags: int = 0,
    stream: int = 0,
    timeout_ms: int = 0,
) -> Reply:
    """One operation, start to end. Raises BackendError where it fails."""
    if not flags and not stream and not timeout_ms:
        reply = exchange(channel, operation, head, body, room_min, room_max)
        assert isinstance(reply, Reply)
        return reply
    with guard:
        _, ticket = channel.submit(
            operation,
            head,
            body,
            room_min=room_min,
            room_max=room_max,
            flags=flags,
            stream=stream,
            timeout_ms=timeout_ms,
            silent=True,
        )
        return _checked(Reply(channel, ticket))


def exchange(
    channel: Channel, operation: int, head: Head, body: Buffer, room_min: int, room_max: int
) -> Reply | dict[str, Any]:
    """One ordinary operation, start to end: its reply, or what a native head's answer became. Raises BackendError where it fails."""
    with guard:
        if type(body) is not memoryview and (len(body) <= COPIED or channel.lent(body)):
            taken = channel.alone(operation, head, body, room_min, room_max)
            if taken is not None:
                return taken if isinstance(taken, dict) else settled(channel, taken)
        _, ticket = channel.submit(operation, bytes(head), body, room_min=room_min, room_max=room_max, silent=True)
        return settled(channel, ticket)


def arrived(channel: Channel, taken: Taken | Ticket) -> Reply:
    """The reply of what `Channel.alone` brought, or of a ticket."""
    return Reply(channel, taken) if isinstance(taken, Ticket) else Reply.of(channel, taken)


def settled(channel: Channel, taken: Taken | Ticket) -> Reply:
    """As `arrived`. Raises BackendError where the operation failed."""
    return _checked(arrived(channel, taken))


def _checked(reply: Reply) -> Reply:
    if reply.status < 0:
        reply.check()
    return reply
