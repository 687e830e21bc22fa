"""A small HTTP client for the node's own API: JSON in, JSON out, a deadline on everything."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nexus.errors import NexusError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Client:
    """Talks to one nexusd. Connections are not kept: every call stands for itself.

    :param url: ``http://address:port`` of the node.
    :param timeout: seconds that a call may wait for its answer, where the call names no other.
    """

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._timeout = timeout

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers (lower-case names) and body, whatever the status.

        :raises NexusError: the node cannot be reached, or did not answer in time.
        """
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout or self._timeout)
        try:
            reply = _exchange(connection, method, path, body, dict(headers or {}))
            content = reply.read()
        except TimeoutError as error:
            message = f"the node at {self.url} did not answer {method} {path} in {timeout or self._timeout:.0f} s"
            raise NexusError(message, "look at its log (nexus status shows where)") from error
        except (OSError, http.client.HTTPException) as error:
            message = f"the node at {self.url} cannot be reached ({error})"
            raise NexusError(message, "start it with `nexus up`") from error
        else:
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, content
        finally:
            connection.close()

    def call(self, method: str, path: str, document: object = None, timeout: float | None = None) -> Any:
        """One call of the admin API: the decoded answer, or None where it is empty.

        :raises ServiceError: the node answered with an error.
        """
        body = None if document is None else json.dumps(document).encode()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        status, reply_headers, content = self.send(method, path, body, headers, timeout)
        if status >= http.client.BAD_REQUEST:
            raise service_error(status, reply_headers, content)
        if not content:
            return None
        if "json" in reply_headers.get("content-type", "") or content[:1] in (b"{", b"["):
            return json.loads(content)
        return content.decode("utf-8", "replace")


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> http.client.HTTPResponse:
    """Send a request and take its answer, which may have come before the node had read, or wanted, all of it."""
    try:
        connection.request(method, path, body=body, headers=headers)
    except (BrokenPipeError, ConnectionResetError) as broken:
        try:
            return connection.getresponse()
        except (OSError, http.client.HTTPException):
            raise broken from None
    return connection.getresponse()


def service_error(status: int, headers: Mapping[str, str], content: bytes) -> ServiceError:
    """The exception for an error answer, in Lambda's shape where it has that."""
    try:
        fields = json.loads(content)
    except ValueError:
        fields = {}
    if not isinstance(fields, dict):
        fields = {}
    kind = headers.get("x-amzn-errortype", str(fields.get("Type", "Service")))
    message = fields.get("Message") or fields.get("message") or content[:500].decode("utf-8", "replace")
    return ServiceError(status, kind.split(":")[0], str(message or f"HTTP status {status}"), fields)
