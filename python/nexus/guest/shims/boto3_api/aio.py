"""aiobotocore at level *http*: its requests leave by the arena as botocore's do, a thread each waiting for the answer.

Nothing is imported here: the patches are applied when a function imports aiobotocore.
"""

import asyncio
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

from ...device import ArenaBody, BackendError, Channel, Reply
from ...imports import when_imported
from . import errors, http, signing

_CHUNK = 1 << 16


def install(channel: Channel) -> None:
    """Patch aiobotocore's session and signer, should a function use them."""
    when_imported("aiobotocore.httpsession", lambda module: _patch_session(module, channel))
    when_imported("aiobotocore.signers", _patch_signer)


def _patch_session(module: ModuleType, channel: Channel) -> None:
    from aiobotocore.awsrequest import AioAWSResponse

    async def send(self: Any, request: Any) -> Any:
        request.body = await _collected(request.body)
        streams = bool(request.stream_output)
        try:
            reply, fields = await asyncio.to_thread(http.exchange, channel, _Timeouts(self._timeout), request)
        except BackendError as error:
            raise errors.as_sent(error, request.url, request) from error
        raw = RawResponse(channel, reply, fields, request.url)
        answer = AioAWSResponse(request.url, fields["status"], raw.headers, raw)
        if not streams:
            await answer.content
        return answer

    module.AIOHTTPSession.send = send


def _patch_signer(module: ModuleType) -> None:
    original = module.AioRequestSigner.get_auth_instance

    async def get_auth_instance(
        self: Any,
        signing_name: str,
        region_name: str,
        signature_version: Any = None,
        request_credentials: Any = None,
        **kwargs: Any,
    ) -> Any:
        version = signature_version or self.signature_version
        version, auth = signing.choose(request_credentials or self._credentials, signing_name, region_name, version)
        if auth is not None:
            return auth
        return await original(self, signing_name, region_name, version, request_credentials, **kwargs)

    module.AioRequestSigner.get_auth_instance = get_auth_instance
    module.AioRequestSigner.get_auth = get_auth_instance


async def _collected(body: Any) -> Any:
    """A body that only an event loop can read, as bytes; any other as it is."""
    if body is None or isinstance(body, (bytes, bytearray, str)):
        return body
    if hasattr(body, "__aiter__"):
        return b"".join([piece async for piece in body])
    read = getattr(body, "read", None)
    if read is None or not asyncio.iscoroutinefunction(read):
        return body
    pieces = []
    while piece := await read(_CHUNK):
        pieces.append(piece)
    return b"".join(pieces)


class _Timeouts:
    """aiohttp's time-outs under the names that botocore's session has."""

    def __init__(self, timeout: Any) -> None:
        self._timeout = self
        self.connect_timeout = timeout.sock_connect
        self.read_timeout = timeout.sock_read


class RawResponse:
    """What aiobotocore uses of aiohttp's response."""

    def __init__(self, channel: Channel, reply: Reply, fields: dict[str, Any], url: str) -> None:
        self._body = ArenaBody(channel, reply, _as_aiohttp)
        self.url = url
        self.status: int = fields["status"]
        self.headers = {name.lower(): value for name, value in fields["headers"]}
        self.content = Content(self._body)

    async def read(self) -> bytes:
        """The whole body."""
        return await self.content.read()

    def close(self) -> None:
        """Give up what is unread."""
        self._body.close()

    release = close


class Content:
    """The body as aiohttp's StreamReader."""

    def __init__(self, body: ArenaBody) -> None:
        self._body = body
        self._ended = body.total_length == 0

    def at_eof(self) -> bool:
        return self._ended

    async def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes; all that is left where it is negative."""
        if n == 0:
            return b""
        # What has arrived is read at once, what has not in a thread.
        data = self._body.read(n) if 0 < n <= self._body.at_hand else await asyncio.to_thread(self._body.read, n)
        whole = self._body.total_length
        self._ended = n < 0 or not data or (whole is not None and self._body.tell() >= whole)
        return data

    readany = read

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Pieces as they come."""
        while data := await asyncio.to_thread(self._body.read1):
            yield data, True
        self._ended = True


def _as_aiohttp(error: BackendError, partial: bytes, missing: int | None) -> BaseException:
    from aiohttp.client_exceptions import ClientPayloadError

    streamed = errors.as_streamed(error, partial, missing)
    if isinstance(streamed, TimeoutError):
        return streamed
    broken: BaseException = ClientPayloadError(f"Response payload is not completed: {error.message}")
    return broken
