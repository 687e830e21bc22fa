"""Level *http*: real botocore up to the point of sending; the host signs and sends.

`URLLib3Session.send` hands the prepared request over the arena and answers with a real AWSResponse around a real
urllib3 response, whose bytes come from the arena.
"""

import json
import time
from collections.abc import Generator
from typing import Any

import botocore.httpsession
from botocore import exceptions
from botocore.awsrequest import AWSResponse
from urllib3 import HTTPHeaderDict
from urllib3.exceptions import ProtocolError, ReadTimeoutError
from urllib3.response import HTTPResponse

from ... import abi
from ...device import ArenaBody, BackendError, Channel, Reply, guard, waiting
from . import errors, signing
from .upload import submit_with_body

_HEAD_ROOM = 1 << 14
_BUSY_DELAYS_S = (0.01, 0.05, 0.25, 1.0)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def install(channel: Channel) -> None:
    """Patch botocore's HTTP session."""

    def send(self: Any, request: Any) -> Any:
        return _send(channel, self, request)

    botocore.httpsession.URLLib3Session.send = send


def _send(channel: Channel, session: Any, request: Any) -> AWSResponse:
    with guard:
        try:
            reply, fields = exchange(channel, session, request)
        except BackendError as error:
            raise errors.as_sent(error, request.url, request) from error
        response = response_of(channel, reply, fields, request.method)
        answer = AWSResponse(request.url, fields["status"], response.headers, response)
    if not request.stream_output:
        try:
            answer.content  # noqa: B018 - reads the body, as botocore's own session does
        except ReadTimeoutError as error:
            raise exceptions.ReadTimeoutError(endpoint_url=request.url, error=error) from error
        except ProtocolError as error:
            raise exceptions.ConnectionClosedError(error=error, request=request, endpoint_url=request.url) from error
    return answer


def response_of(channel: Channel, reply: Reply, fields: dict[str, Any], method: str) -> HTTPResponse:
    """A urllib3 response over what is left of a reply."""
    body = ArenaBody(channel, reply, errors.as_streamed)
    headers = HTTPHeaderDict()
    for name, value in fields["headers"]:
        headers.add(name, value)
    return _Response(
        body,
        headers=headers,
        status=fields["status"],
        version=11,
        preload_content=False,
        decode_content=False,
        enforce_content_length=False,
        request_method=method,
    )


class _Response(HTTPResponse):
    """A response whose parts come as they come, where its length is not known: so do a chunked one's from urllib3."""

    def stream(self, amt: int | None = 1 << 16, decode_content: bool | None = None) -> Generator[bytes, None, None]:
        body: Any = self._fp
        if not isinstance(body, ArenaBody) or body.total_length is not None:
            yield from super().stream(amt, decode_content)
            return
        while part := body.read1():
            size = amt or len(part)
            yield from (part[at : at + size] for at in range(0, len(part), size))


def _head(session: Any, request: Any) -> bytes:
    sign = None
    headers = []
    for name, raw in request.headers.items():
        value = raw.decode("utf-8") if isinstance(raw, bytes) else str(raw)
        lowered = name.lower()
        if lowered == "authorization" and (sign := signing.scope(value)) is not None:
            continue
        if lowered == "expect":  # the host holds the body already
            continue
        headers.append([name, value])
    connect, read = _timeouts(session, request)
    return _encode(
        {
            "method": request.method,
            "url": request.url,
            "headers": headers,
            "sign": sign,
            "connect_timeout_s": connect,
            "read_timeout_s": read,
        }
    ).encode("utf-8")


def _timeouts(session: Any, request: Any) -> tuple[float, float]:
    timeout = session._timeout
    connect = getattr(timeout, "connect_timeout", timeout)
    read = getattr(timeout, "read_timeout", timeout)
    override = (getattr(request, "context", None) or {}).get("read_timeout")
    return _seconds(connect), _seconds(read if override is None else override)


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and value > 0 else 60.0


def exchange(channel: Channel, session: Any, request: Any) -> tuple[Reply, dict[str, Any]]:
    """Send a prepared request; the reply, and its head. Raises BackendError where there is no answer. In a section of the guard."""
    head = _head(session, request)
    room = channel.share(channel.room_limit if request.stream_output else 1 << 18, _HEAD_ROOM)
    for delay in (*_BUSY_DELAYS_S, None):
        ticket = submit_with_body(channel, abi.HTTP, head, request.body, _HEAD_ROOM, room)
        reply = Reply(channel, ticket)
        if reply.status != abi.STATUS_BUSY or delay is None or not _rewind(request.body):
            break
        reply.release()
        with waiting:
            time.sleep(delay)
    reply.check()
    fields: dict[str, Any] = _decode(reply.head)
    return reply, fields


def _rewind(body: object) -> bool:
    return body is None or isinstance(body, (bytes, bytearray, str))
