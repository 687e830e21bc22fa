"""Event after event: NEXT carries one outcome out and the next event in."""

import json
import os
import sys
import time
from typing import Any

from .. import abi
from ..device import BackendError, Channel, Reply
from ..device.body import ArenaBody
from ..device.channel import COPIED
from ..device.reply import arrived
from ..device.ticket import Ticket
from . import faults, logs, marshal
from .context import LambdaContext
from .loader import Handler

# Lambda's limit for a synchronous result (bytes).
RESULT_LIMIT = 6_291_556
# Room for an event at the first try; larger ones are read on.
_EVENT_ROOM = 1 << 16
_LEAST_ROOM = 1 << 14
_PART = 1 << 20

_decode = json.JSONDecoder().decode
Outcome = tuple[int, bytes]


def handle(handler: Handler, invocation: dict[str, Any], event: str) -> tuple[Outcome, bytes]:
    """Call `handler` once. Returns NEXT's flag and body, and NEXT's head with the times (ns).

    SystemExit, KeyboardInterrupt and their like pass: they end the runtime, as on Lambda.
    """
    request_id: str = invocation["request_id"]
    logs.request_id = request_id
    trace_id = invocation.get("trace_id")
    if trace_id:
        os.environ["_X_AMZN_TRACE_ID"] = trace_id
    elif "_X_AMZN_TRACE_ID" in os.environ:
        del os.environ["_X_AMZN_TRACE_ID"]
    started = ended = time.monotonic_ns()
    try:
        context = LambdaContext(invocation)
        value = marshal.load(event)
        started = time.monotonic_ns()
        try:
            result = handler(value, context)
        finally:
            ended = time.monotonic_ns()
        body = marshal.dump(result)
        if len(body) > RESULT_LIMIT:
            raise faults.Fault(
                "Function.ResponseSizeTooLarge",
                f"Response payload size exceeded maximum allowed payload size ({RESULT_LIMIT} bytes).",
            )
        outcome = (abi.NEXT_RESULT, body)
    except Exception as error:
        outcome = (abi.NEXT_ERROR, _failed(error, request_id))
    logs.flush()
    return outcome, b'{"started_ns":%d,"ended_ns":%d}' % (started, ended)


def _failed(error: Exception, request_id: str) -> bytes:
    document = faults.from_exception(error, request_id)
    error.__traceback__ = None  # let go of the handler's frames
    body = json.dumps(document).encode()
    if len(body) > RESULT_LIMIT:
        document["errorMessage"] = document["errorMessage"][: RESULT_LIMIT // 16]
        document["stackTrace"] = []
        body = json.dumps(document).encode()
    faults.log(document)
    return body


def hand_over(channel: Channel, outcome: Outcome | None, head: bytes) -> tuple[Ticket, int]:
    """Hand `outcome` over and ask for the next event: what `receive` waits for."""
    flags, body = outcome or (0, b"")
    if len(body) + len(head) + _EVENT_ROOM + 4096 > channel.heap_free:
        # It does not fit into what is free of the heap.
        identity, ticket = channel.submit(
            abi.NEXT, head, room_min=_LEAST_ROOM, room_max=_EVENT_ROOM, flags=flags | abi.STREAM_BODY
        )
        send_parts(channel, identity, memoryview(body))
        return ticket, 0
    begun = channel.begin(abi.NEXT, head, body, _LEAST_ROOM, _EVENT_ROOM, flags) if len(body) <= COPIED else None
    if begun is not None:
        return begun
    _, ticket = channel.submit(abi.NEXT, head, body, room_min=_LEAST_ROOM, room_max=_EVENT_ROOM, flags=flags, silent=True)
    return ticket, 0


def receive(channel: Channel, ticket: Ticket, identity: int) -> tuple[dict[str, Any], str]:
    """The next event: NEXT's reply, and the event's text. `identity`: of a submission that its thread has the lead for, or 0."""
    taken = channel.finish(ticket, identity, b"") if identity else ticket
    assert not isinstance(taken, dict)  # which takes a native head
    reply = arrived(channel, taken)
    channel.woken()
    reply.check()
    invocation = _decode(reply.head)
    if reply.more:
        with ArenaBody(channel, reply) as rest:
            return invocation, str(rest.read(), "utf-8", "replace")
    event = str(reply.body, "utf-8", "replace")
    reply.release()
    return invocation, event


def send_parts(channel: Channel, identity: int, body: memoryview) -> None:
    """Send a body in BODY parts. Stops early where the backend does not want the rest."""
    part = max(min(_PART, channel.room_limit // 2), 1 << 14)
    for start in range(0, len(body), part):
        piece = body[start : start + part]
        more = abi.MORE_BODY if start + part < len(body) else 0
        _, ticket = channel.submit(abi.BODY, b"", piece, flags=more, stream=identity, room_max=1024)
        reply = Reply(channel, ticket)
        reply.release()
        if reply.status < 0:
            return  # the request itself says why


def run(channel: Channel, handler: Handler) -> None:
    """Handle events until the instance is ended."""
    channel.lend()
    outcome: Outcome | None = None
    head = b""
    while True:
        channel.shrink()
        try:
            waiting = hand_over(channel, outcome, head)
            outcome = None  # memory of one that waits
            invocation, event = receive(channel, *waiting)
        except BackendError as error:
            sys.stderr.write(f"nexus: no further event: {error}\n")
            raise SystemExit(1) from error
        outcome, head = handle(handler, invocation, event)
        del invocation, event, waiting
