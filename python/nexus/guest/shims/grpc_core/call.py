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
from .traffic import PIECE, Traffic

_ROOM = 1 << 16
# Pieces of messages that may be on their way while the application goes on.
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
    send_limit: int


class Call:
    """Batches of operations in, events out. `watch` is told of every ticket that has to be waited for."""

    def __init__(
        self,
        channel: Channel,
        traffic: Traffic,
        request: Request,
        deadline: float | None,
        datum: Any,
        watch: Callable[["Call", Ticket], None],
        emit: Callable[[Any, Any], None],
        event: Callable[[Any, Any], Any],
        reached: Callable[[bool], None],
    ) -> None:
        self._channel = channel
        self._traffic = traffic
        self._request = request
        self.deadline = deadline
        self._datum = datum
        self._watch = watch
        self._emit = emit
        self._event = event
        self._reached = reached
        # What is to be sent, whether that is all, and the operation that asks for it; what is on its way; of that the
        # ticket that is waited for, since more is to be sent.
        self._outbox: deque[tuple[memoryview, bool, Any]] = deque()
        self._sent: deque[Ticket] = deque()
        self._awaited: Ticket | None = None
        self._timed = False
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
        given = [operation for batch, _ in batches for operation in batch]
        messages = [operation for operation in given if operation.kind == "send_message"]
        may_begin = self._outcome is None and all(self._fits(message) for message in messages) and self._finds_place()
        with self._lock:
            if may_begin and self._outcome is None:
                closed = any(operation.kind == "send_close_from_client" for operation in given)
                self._begin(
                    b"".join(wire.frame(message.content, self._request.encoding) for message in messages), closed, whole
                )
            for operation in given:
                operation.done = operation.kind.startswith("send_")
            self._batches += batches
            self._advance()

    def _begin(self, body: bytes, closed: bool, whole: bool) -> None:
        inline = closed and len(body) <= self._channel.room_limit // 2
        try:
            self._submit(self._request.authorities + (body if inline else b""), inline=inline, whole=whole)
        except TimeoutError:
            self._finish(_DEADLINE_EXCEEDED, "Deadline Exceeded", ())
            return
        self._half_closed = closed
        if not inline and (body or closed):
            self._outbox.append((memoryview(body), closed, None))

    def fail(self, code: int, details: str) -> None:
        """It will not even begin."""
        self._finish(code, details, ())

    def _finds_place(self) -> bool:
        if self._traffic.enter(self.deadline):
            return True
        if self.deadline is not None and self.deadline <= time.time():
            self._finish(_DEADLINE_EXCEEDED, "Deadline Exceeded", ())
        else:
            self._finish(_RESOURCE_EXHAUSTED, "too many calls of this instance wait for servers", ())
        return False

    def _fits(self, message: Any) -> bool:
        size, limit = len(message.content), self._request.send_limit
        if 0 <= limit < size:
            self.cancel(_RESOURCE_EXHAUSTED, f"CLIENT: Sent message larger than max ({size} vs. {limit})")
            return False
        return True

    def _submit(self, body: bytes, *, inline: bool, whole: bool) -> None:
        head = dict(
            self._request.fields, metadata=self._request.metadata, whole=whole, authorities=len(self._request.authorities)
        )
        patience = 0
        if self.deadline is not None:
            head["deadline_ms"] = left = max(0, round((self.deadline - time.time()) * 1000))
            patience = min(max(left, 1), _LONGEST_MS)
        room = _WHOLE_ROOM if whole else 1 << 12
        self._identity, self._reading = self._channel.submit(
            abi.RPC,
            json.dumps(head).encode(),
            body,
            room_min=min(room, 1 << 15),
            room_max=room,
            flags=0 if inline else abi.STREAM_BODY,
            timeout_ms=patience,
        )
        self._traffic.waits(self._reading)
        self._watch(self, self._reading)

    def _pump(self) -> None:
        """Send what the server's pace and the other calls allow. Under the lock, and without a wait for the server, which may
        wait until it is read.
        """
        if self._outcome is not None:
            self._outbox.clear()
        while self._outbox:
            while self._sent and self._sent[0].completion is not None:
                self._sent.popleft()
            if self._sent and (len(self._sent) >= _UNSEEN or not self._traffic.may_send()):
                if self._awaited is not self._sent[0]:
                    self._awaited = self._sent[0]
                    self._watch(self, self._awaited)
                return
            view, last, operation = self._outbox[0]
            piece, rest = view[:PIECE], view[PIECE:]
            flags = 0 if last and not len(rest) else abi.MORE_BODY
            _, ticket = self._channel.submit(abi.BODY, b"", piece, flags=flags, stream=self._identity)
            self._sent.append(ticket)
            self._traffic.sends(ticket)
            if len(rest):
                self._outbox[0] = (rest, last, operation)
                continue
            self._outbox.popleft()
            if operation is not None:
                operation.done = True

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
            for operation in batch:
                if operation.kind == "send_message":
                    self._enqueue(operation)
                elif operation.kind == "send_close_from_client":
                    if not self._half_closed:
                        self._half_closed = True
                        self._outbox.append((memoryview(b""), True, None))
                    operation.done = True
            self._batches.append((batch, tag))
            self._advance()
            return True

    def _enqueue(self, operation: Any) -> None:
        """A message is to be sent. Under the lock."""
        if operation.queued or not self._fits(operation) or self._outcome is not None:
            return
        operation.queued = True
        self._outbox.append((memoryview(wire.frame(operation.content, self._request.encoding)), False, operation))

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
        with self._lock:
            self._enqueue(operation)
            self._pump()
            return bool(operation.done) and self._outcome is None

    def cancel(self, code: int, details: str) -> None:
        """End it here and at the server."""
        with self._lock:
            if self._outcome is None:
                self._messages.clear()
                self._finish(int(code), self._cut(details), ())
                if self._identity and self._generation == self._channel.restores:
                    self._channel.post(abi.CLOSE, stream=self._identity, flags=abi.STREAM_BODY)
                    if self._reading is None and self._stream:
                        self._channel.post(abi.CLOSE, stream=self._stream)
            self._advance()

    def expire(self) -> None:
        """Its deadline has passed while messages lay unread, or its end behind them."""
        with self._lock:
            if not self._waits_for_status():
                return
            if self._outcome is None:
                self.cancel(_DEADLINE_EXCEEDED, "Deadline Exceeded")
                return
            self._messages.clear()
            self._finish(_DEADLINE_EXCEEDED, self._cut("Deadline Exceeded"), self._outcome.trailing)
            self._advance()

    def _cut(self, details: str) -> str:
        """What the core makes of details where it ends a call itself."""
        return details if self._initial is None else f"Stream removed ({details})"

    def _waits_for_status(self) -> bool:
        return any(o.kind == "receive_status_on_client" and not o.done for batch, _ in self._batches for o in batch)

    # -- what the backend says ----------------------------------------------------------------------------------

    def completed(self, ticket: Ticket) -> None:
        """A ticket of this call has completed."""
        with self._lock:
            reply = Reply(self._channel, ticket)
            if ticket is self._reading:
                self._reading = None
                self._take(reply)
            reply.release()
            self._advance()
            self._traffic.passed(ticket)

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
                    self._reached(True)
                self._finish(*wire.status(event["trailers"]), wire.incoming(event["trailers"], self._datum))
            elif "status" in event:
                code, details = event["status"]
                self._messages.clear()
                if code == _DEADLINE_EXCEEDED:
                    details = self._cut(details)
                if code == _UNAVAILABLE:
                    self._reached(False)
                self._finish(code, details, ())

    def _headers(self, pairs: Any) -> None:
        self._initial = wire.incoming(pairs, self._datum)
        self._reached(True)
        self._unframer.encoding = dict(pairs).get("grpc-encoding")

    def _unframe(self) -> None:
        try:
            while (message := self._unframer.next()) is not None:
                self._messages.append(message)
        except ValueError as error:
            code, details = error.args
            self.cancel(code, details)

    def _finish(self, code: int, details: str, trailing: Any) -> None:
        name = _NAMES[code] if 0 <= code < len(_NAMES) else "UNKNOWN"
        debug = "" if code == 0 else f"{name}:{details}"
        self._outcome = Outcome(code, details, trailing, debug)

    # -- both together ------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        self._pump()
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
            self._traffic.waits(self._reading)
            self._watch(self, self._reading)
        if self._messages and self.deadline is not None and not self._timed and self._waits_for_status():
            self._timed = True
            self._traffic.time(self)

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
_DEADLINE_EXCEEDED = _NAMES.index("DEADLINE_EXCEEDED")
_RESOURCE_EXHAUSTED = _NAMES.index("RESOURCE_EXHAUSTED")
_UNAVAILABLE = _NAMES.index("UNAVAILABLE")
# A submission's limit has 32 bits.
_LONGEST_MS = (1 << 32) - 1
