"""One call: what the application asks of it, and what the backend says of it, brought together."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from ... import abi
from ...device import Channel, Reply
from ...device.ticket import Ticket
from . import operations, wire

_ROOM = 1 << 16
_PIECE = 1 << 17
# Messages that may be on their way while the application goes on.
_UNSEEN = 8
# A unary answer of up to this much comes in one piece.
_WHOLE_ROOM = 1 << 17

_decode = json.JSONDecoder().decode


class Outcome(NamedTuple):
    """How a call ended."""

    code: int
    details: str
    trailing: Any
    debug: str


class Request(NamedTuple):
    """What the head of a call says, but for its metadata."""

    fields: dict[str, Any]
    metadata: wire.Pairs
    encoding: str | None
    authorities: bytes
    limit: int


class Call:
    """Batches of operations in, events out. `watch` is told of every ticket that has to be waited for."""

    def __init__(
        self,
        channel: Channel,
        request: Request,
        deadline: float | None,
        datum: Any,
        watch: Callable[["Call", Ticket], None],
        emit: Callable[[Any, Any], None],
        event: Callable[[Any, Any], Any],
    ) -> None:
        self._channel = channel
        self._request = request
        self._deadline = deadline
        self._datum = datum
        self._watch = watch
        self._emit = emit
        self._event = event
        self._sent: deque[Ticket] = deque()
        self._lock = threading.RLock()
        self._batches: list[tuple[Any, Any]] = []
        self._unframer = wire.Unframer(request.limit)
        self._messages: deque[bytes] = deque()
        self._initial: Any = None
        self._outcome: Outcome | None = None
        self._identity = 0
        self._stream = 0
        self._reading: Ticket | None = None
        self._generation = channel.restores
        self._half_closed = False

    # -- what the application asks ------------------------------------------------------------------------------

    def start(self, batches: Any, *, whole: bool) -> None:
        """Begin, with the first batches; `whole`: they ask for all of a unary call at once."""
        with self._lock:
            if self._outcome is not None:
                for operation in (operation for batch, _ in batches for operation in batch):
                    operation.done = operation.kind.startswith("send_")
                self._batches += batches
                self._advance()
                return
            given = [operation for batch, _ in batches for operation in batch]
            messages = [operation for operation in given if operation.kind == "send_message"]
            closed = any(operation.kind == "send_close_from_client" for operation in given)
            body = b"".join(wire.frame(message.content, self._request.encoding) for message in messages)
            inline = closed and len(body) <= self._channel.room_limit // 2
            self._submit(self._request.authorities + (body if inline else b""), inline=inline, whole=whole)
            if not inline:
                self._send(body, last=closed)
            self._half_closed = closed
            for operation in given:
                operation.done = operation.kind.startswith("send_")
            self._batches += batches
            self._advance()

    def fail(self, code: int, details: str) -> None:
        """It will not even begin."""
        self._finish(code, details, ())

    def _submit(self, body: bytes, *, inline: bool, whole: bool) -> None:
        head = dict(
            self._request.fields, metadata=self._request.metadata, whole=whole, authorities=len(self._request.authorities)
        )
        if self._deadline is not None:
            head["deadline_ms"] = max(0, round((self._deadline - time.time()) * 1000))
        room = _WHOLE_ROOM if whole else 1 << 12
        self._identity, self._reading = self._channel.submit(
            abi.RPC,
            json.dumps(head).encode(),
            body,
            room_min=min(room, 1 << 15),
            room_max=room,
            flags=0 if inline else abi.STREAM_BODY,
        )
        self._watch(self, self._reading)

    def _send(self, data: bytes, *, last: bool) -> Ticket | None:
        """Hand bytes over; the ticket of their last piece."""
        on_their_way: deque[Ticket] = deque()
        with memoryview(data) as view:
            for start in range(0, max(len(view), 1), _PIECE):
                piece = view[start : start + _PIECE]
                final = last and start + _PIECE >= len(view)
                if not len(piece) and not final:
                    continue
                if len(on_their_way) * _PIECE >= self._channel.room_limit:
                    Reply(self._channel, on_their_way.popleft()).release()
                flags = 0 if final else abi.MORE_BODY
                _, ticket = self._channel.submit(abi.BODY, b"", piece, flags=flags, stream=self._identity)
                on_their_way.append(ticket)
        last_one = on_their_way.pop() if on_their_way else None
        for ticket in on_their_way:
            self._channel.abandon(ticket)
        return last_one

    def operate(self, batch: Any, tag: Any) -> bool:
        """One more batch. False where the call has ended, and nothing will come of it."""
        if self._outcome is not None and not self._messages and all(o.kind.startswith("send_") for o in batch):
            return False
        if tag is not None and len(batch) == 1 and self._at_once(batch[0]):
            tag(self._event(tag, batch))
            with self._lock:
                self._advance()
            return True
        with self._lock:
            self._batches.append((batch, tag))
        for operation in batch:
            # Not under the lock: what makes room for a large message may need it.
            if operation.kind == "send_message" and operation.ticket is None:
                operation.ticket = self._send(wire.frame(operation.content, self._request.encoding), last=False)
                self._watch(self, operation.ticket)
            elif operation.kind == "send_message":
                self._watch(self, operation.ticket)
        with self._lock:
            for operation in batch:
                if operation.kind == "send_close_from_client":
                    if not self._half_closed:
                        self._half_closed = True
                        if (ticket := self._send(b"", last=True)) is not None:
                            self._watch(self, ticket)
                    operation.done = True
            self._advance()
            return True

    def _at_once(self, operation: Any) -> bool:
        """Do without the detour of an event by another thread what can be done now. Not at the end of a call, whose last
        event has to come by that thread, which counts calls.
        """
        if operation.kind == "receive_message":
            with self._lock:
                waiting = any(o.kind == "receive_message" for batch, _ in self._batches for o in batch if not o.done)
                if waiting or not self._messages:
                    return False
                operation.content = self._messages.popleft()
                operation.done = True
                return True
        if operation.kind != "send_message":
            return False
        operation.ticket = self._send(wire.frame(operation.content, self._request.encoding), last=False)
        self._sent.append(operation.ticket)
        while self._sent and self._sent[0].completion is not None:
            Reply(self._channel, self._sent.popleft()).release()
        if len(self._sent) <= _UNSEEN and self._outcome is None:
            operation.done = True
            return True
        self._sent.pop()  # the server is slow: the next message waits until this one has gone
        return False

    def cancel(self, code: int, details: str) -> None:
        """End it here and at the server."""
        with self._lock:
            if self._outcome is None:
                self._messages.clear()
                self._finish(int(code), details, ())
                if self._generation == self._channel.restores:
                    self._channel.post(abi.CLOSE, stream=self._identity, flags=abi.STREAM_BODY)
                    if self._reading is None and self._stream:
                        self._channel.post(abi.CLOSE, stream=self._stream)
            self._advance()

    # -- what the backend says ----------------------------------------------------------------------------------

    def completed(self, ticket: Ticket) -> None:
        """A ticket of this call has completed."""
        with self._lock:
            reply = Reply(self._channel, ticket)
            if ticket is self._reading:
                self._reading = None
                self._take(reply)
            reply.release()
            for batch, _ in self._batches:
                for operation in batch:
                    if operation.kind == "send_message" and operation.ticket is ticket:
                        operation.done = True
            self._advance()

    def _take(self, reply: Reply) -> None:
        if reply.status < 0:
            if self._outcome is None:
                self._finish(14, "Socket closed", ())
            return
        if self._outcome is not None:
            if reply.more and reply.stream:
                self._channel.post(abi.CLOSE, stream=reply.stream)
            return
        self._stream = reply.stream if reply.more else 0
        events = _decode(reply.head).get("events", ()) if reply.head else ()
        for event in events:
            if "headers" in event:
                self._headers(event["headers"])
        if reply.body_length:
            self._unframer.feed(reply.body)
            self._unframe()
        for event in events:
            if self.over:
                break
            if "trailers" in event:
                if self._initial is None:
                    self._initial = ()
                self._finish(*wire.status(event["trailers"]), wire.incoming(event["trailers"], self._datum))
            elif "status" in event:
                code, details = event["status"]
                self._messages.clear()
                if code == 4 and self._initial is not None:
                    details = f"Stream removed ({details})"
                self._finish(code, details, ())

    def _headers(self, pairs: Any) -> None:
        self._initial = wire.incoming(pairs, self._datum)
        self._unframer.encoding = dict(pairs).get("grpc-encoding")

    def _unframe(self) -> None:
        try:
            while (message := self._unframer.next()) is not None:
                self._messages.append(message)
        except ValueError as error:
            code, details = error.args
            self.cancel(code, f"Stream removed ({details})")

    def _finish(self, code: int, details: str, trailing: Any) -> None:
        name = _NAMES[code] if 0 <= code < len(_NAMES) else "UNKNOWN"
        debug = "" if code == 0 else f"{name}:{details}"
        self._outcome = Outcome(code, details, trailing, debug)

    # -- both together ------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        waiting = []
        for batch, tag in self._batches:
            for operation in batch:
                if not operation.done:
                    self._try(operation)
            if all(operation.done for operation in batch):
                self._emit(tag, batch)
            else:
                waiting.append((batch, tag))
        self._batches = waiting
        if self._reading is None and self._stream and self._outcome is None and not self._messages:
            _, self._reading = self._channel.submit(abi.READ, room_min=_ROOM, room_max=_ROOM, stream=self._stream)
            self._watch(self, self._reading)

    def _try(self, operation: Any) -> None:
        over = self._outcome is not None
        if operation.kind == "receive_initial_metadata" and (over or self._initial is not None):
            operation.metadata = self._initial or ()
            operation.done = True
        elif operation.kind == "receive_message" and (self._messages or over):
            operation.content = self._messages.popleft() if self._messages else None
            operation.done = True
        elif operation.kind == "receive_status_on_client" and over and not self._messages:
            operation.outcome = self._outcome
            operation.done = True
        elif operation.kind == "send_message" and over:
            operation.done = True

    @property
    def over(self) -> bool:
        return self._outcome is not None

    def __del__(self) -> None:
        # Also called by the collector, inside any allocation: no locks here.
        if getattr(self, "_stream", 0) and self._outcome is None and self._generation == self._channel.restores:
            self._channel.discard(0, 0, self._stream)


_NAMES = operations.STATUS_NAMES
