"""A completed operation: its head, and the part of its body that lies in the arena."""

import json

from .. import abi
from .channel import Buffer, Channel, Ticket
from .errors import BackendError, DeviceUnavailableError
from .heap import aligned


class Reply:
    """Owns the body's heap until `release`. `head` is the head's JSON text."""

    __slots__ = ("_channel", "body_length", "body_offset", "head", "more", "status", "stream", "total_length")

    def __init__(self, channel: Channel, ticket: Ticket) -> None:
        """Wait for `ticket`, give back what its room does not need."""
        completion = channel.wait(ticket)
        room = ticket.offset + ticket.fixed
        end = room + ticket.room
        body, length = completion.body_offset, completion.body_length
        head, head_length = completion.head_offset, completion.head_length
        if (head_length and not room <= head <= end - head_length) or (length and not room <= body <= end - length):
            raise DeviceUnavailableError("the backend placed a reply outside its room")
        self._channel = channel
        self.status = completion.status
        self.head = channel.arena[head : head + head_length].decode() if head_length else ""
        self.stream = completion.stream
        self.more = completion.flags & abi.MORE != 0
        self.total_length = None if completion.total_length == abi.UNKNOWN_LENGTH else completion.total_length
        self.body_length = length
        if length:
            self.body_offset = body
            kept = body + aligned(length)
            channel.touched = max(channel.touched, kept)
            channel.trim(room, end, body, kept)
        else:
            self.body_offset = 0
            if end > room:
                channel.release(room, end - room)

    @property
    def body(self) -> memoryview:
        """View of the body in the arena: valid until `release`."""
        return self._channel.view(self.body_offset, self.body_offset + self.body_length)

    def release(self) -> None:
        """Give the body's heap back. May be called again."""
        length, self.body_length = self.body_length, 0
        if length:
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
    reply = Reply(channel, ticket)
    if reply.status < 0:
        reply.check()
    return reply
