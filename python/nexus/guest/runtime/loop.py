"""Event after event: NEXT carries one outcome out and the next event in."""

import json
import os
import sys
import time
from typing import Any

from .. import abi
from ..device import BackendError, Channel, Reply
from ..device.body import ArenaBody
from . import faults, logs, marshal
from .context import LambdaContext
from .loader import Handler

# Lambda's limit for a synchronous result (bytes).
RESULT_LIMIT = 6_291_556
# Room for an event at the first try; larger ones are read on.
_EVENT_ROOM = 1 << 16
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
    try:
        faults.log(document, sys.stdout.write)
    except (OSError, ValueError, AttributeError):
        pass  # the handler closed or replaced its output: the caller still gets the error
    return body


def exchange(channel: Channel, outcome: Outcome | None, head: bytes) -> tuple[dict[str, Any], str]:
    """Hand `outcome` over and wait for the next event: NEXT's reply, and the event's text."""
    flags, body = outcome or (0, b"")
    room = _EVENT_ROOM
    if len(body) + len(head) + room + 4096 > channel.heap_free:
        reply = _exchange_in_parts(channel, flags, body, head, room)
    else:
        _, ticket = channel.submit(abi.NEXT, head, body, room_min=1 << 14, room_max=room, flags=flags, silent=True)
        outcome = None
        body = b""
        reply = Reply(channel, ticket)
    channel.woken()
    reply.check()
    invocation = _decode(reply.head)
    if reply.more:
        with ArenaBody(channel, reply) as rest:
            return invocation, str(rest.read(), "utf-8", "replace")
    event = str(reply.body, "utf-8", "replace")
    reply.release()
    return invocation, event


def _exchange_in_parts(channel: Channel, flags: int, body: bytes, head: bytes, room: int) -> Reply:
    """As `exchange`, for an outcome that does not fit into what is free of the heap."""
    identity, ticket = channel.submit(abi.NEXT, head, room_min=1 << 14, room_max=room, flags=flags | abi.STREAM_BODY)
    send_parts(channel, identity, memoryview(body))
    return Reply(channel, ticket)


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
            invocation, event = exchange(channel, outcome, head)
        except BackendError as error:
            sys.stderr.write(f"nexus: no further event: {error}\n")
            raise SystemExit(1) from error
        outcome, head = handle(handler, invocation, event)
        del invocation, event
