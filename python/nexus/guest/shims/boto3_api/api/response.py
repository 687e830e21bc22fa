"""Replies of the fast path as botocore would have parsed them.

Operations whose answer is all headers are parsed by a plan compiled from the service model; XML bodies, errors and
whatever botocore's own event handlers would change go through `parse`, which is botocore.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Any

from botocore import model
from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.utils import parse_timestamp

from ....device.native import native
from . import body as bodies

_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT")
_MONTHS = {
    name: at for at, name in enumerate(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1)
}
_UTC: tzinfo | None = parse_timestamp("Thu, 01 Jan 1970 00:00:00 GMT").tzinfo
# None: as it is.
Convert = Callable[[str], Any] | None


def timestamp(text: str) -> datetime:
    """A header's date. The usual form is read here, at a fortieth of the cost; any other by botocore."""
    match = _HTTP_DATE.fullmatch(text)
    if match is None or match[2] not in _MONTHS:
        parsed: datetime = parse_timestamp(text)
        return parsed
    return datetime(int(match[3]), _MONTHS[match[2]], int(match[1]), int(match[4]), int(match[5]), int(match[6]), 0, _UTC)


def boolean(text: str) -> bool:
    """A header's boolean, as botocore's XML parsers read one."""
    return text == "true"


_CONVERT: dict[str, Convert] = {
    "string": None,
    "integer": int,
    "long": int,
    "boolean": boolean,
    "timestamp": timestamp,
}


# The decoder's core: what it wraps around that looks for blanks, and the host puts none.
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
# Sets of names that a plan remembers which of its members they give; servers send few.
_MOST_SETS = 64


class Headers:
    """A reply's headers: joined where repeated, by lower-case name, with the names as sent."""

    __slots__ = ("_head", "lowered")

    def __init__(self, lowered: dict[str, str], head: str) -> None:
        """`head`: the reply's, which they are from."""
        self.lowered = lowered
        self._head = head

    @property
    def as_sent(self) -> dict[str, str]:
        """Names by their lower-case form, each as it came first."""
        return {name.lower(): name for name, _ in reversed(_scan(self._head, 0)[0]["headers"])}


def answer(head: str) -> tuple[int, Headers, int]:
    """Status, headers and retries of a reply's head (JSON)."""
    fields = _scan(head, 0)[0]
    pairs = fields["headers"]
    lowered = {name.lower(): value for name, value in pairs}
    if len(lowered) < len(pairs):
        lowered = {name: ", ".join(value for key, value in pairs if key.lower() == name) for name in lowered}
    return fields["status"], Headers(lowered, head), fields["retries"]


class ResponsePlan:
    """How one operation's headers become members of its result. `complete` is False where only botocore can."""

    def __init__(self, operation: model.OperationModel) -> None:
        shape = operation.output_shape
        self.complete = True
        kinds: list[tuple[str, str, str]] = []
        self.payload: str | None = None
        self._members: list[tuple[str, str, Convert]] = []
        self._known: dict[tuple[str, ...], list[tuple[str, str, Convert]]] = {}
        self._map: tuple[str, str] | None = None
        self._map_at = 0
        for name, member in shape.members.items() if shape is not None else ():
            location = member.serialization.get("location")
            if location == "header" and member.type_name in _CONVERT:
                wire = member.serialization.get("name", name).lower()
                self._members.append((wire, name, _CONVERT[member.type_name]))
                kinds.append((wire, name, member.type_name))
            elif location == "headers" and self._map is None:
                self._map = (member.serialization.get("name", "").lower(), name)
                self._map_at = len(self._members)
                kinds.append((self._map[0], name, "prefix"))
            elif shape.serialization.get("payload") == name and member.type_name == "blob":
                self.payload = name
            else:
                self.complete = False
        # None where only Python reads the answers.
        self.native: Any = None
        if native and self.complete:
            self.native = native.Answers(kinds, datetime, _UTC, None if self.payload is None else bodies.usual(self.payload))

    def read(self, head: str) -> tuple[int, Headers, int, dict[str, Any] | None]:
        """Status, headers and retries of a reply's head, and the result but for its body: None where that takes a parser."""
        if self.native:
            read = self.native.read(head)
            if read is not None:
                status, lowered, retries, result = read
                return status, Headers(lowered, head), retries, result
        status, headers, retries = answer(head)
        if status >= 300 or not self.complete or "expires" in headers.lowered:
            return status, headers, retries, None
        return status, headers, retries, {"ResponseMetadata": metadata(status, headers), **self.members(headers)}

    def members(self, headers: Headers) -> dict[str, Any]:
        """The result's members, in the order in which botocore makes them. Raises ValueError for odd values."""
        lowered = headers.lowered
        names = tuple(lowered)
        present = self._known.get(names)
        if present is None:
            present = self._present(names)
        parsed: dict[str, Any] = {}
        for wire, name, convert in present:
            if convert is None:
                parsed[name] = lowered[wire]
            elif convert is _mapped:
                parsed[name] = self._mapped(headers)
            else:
                parsed[name] = convert(lowered[wire])
        return parsed

    def _present(self, names: tuple[str, ...]) -> list[tuple[str, str, Convert]]:
        """The members that headers of these names give."""
        present = [entry for entry in self._members if entry[0] in names]
        if self._map is not None:
            at = sum(entry[0] in names for entry in self._members[: self._map_at])
            present.insert(at, ("", self._map[1], _mapped))
        if len(self._known) >= _MOST_SETS:
            self._known.clear()
        self._known[names] = present
        return present

    def _mapped(self, headers: Headers) -> dict[str, str]:
        """The one member that takes all headers with a prefix."""
        prefix = self._map[0] if self._map is not None else ""
        found = {wire: value for wire, value in headers.lowered.items() if wire.startswith(prefix)}
        if not found:
            return found
        as_sent = headers.as_sent
        return {as_sent[wire][len(prefix) :]: value for wire, value in found.items()}


def _mapped(value: str) -> str:
    """Stands for :meth:`ResponsePlan._mapped` among the conversions."""
    return value


def metadata(status: int, headers: Headers) -> dict[str, Any]:
    """ResponseMetadata without RetryAttempts."""
    lowered = headers.lowered
    result: dict[str, Any] = {}
    if "x-amzn-requestid" in lowered:
        result["RequestId"] = lowered["x-amzn-requestid"]
    elif "x-amz-request-id" in lowered:
        result["RequestId"] = lowered["x-amz-request-id"]
        result["HostId"] = lowered.get("x-amz-id-2", "")
    result["HTTPStatusCode"] = status
    result["HTTPHeaders"] = lowered
    return result


def parse(
    client: Any,
    operation: model.OperationModel,
    status: int,
    headers: Headers,
    body: object,
    context: dict[str, Any],
) -> dict[str, Any] | None:
    """The result by botocore's own parsers and handlers. None for an error in disguise: a 200 that bears one."""
    endpoint = client._endpoint
    fields = HeadersDict()
    for wire, value in headers.lowered.items():
        fields[headers.as_sent[wire]] = value
    response = {"headers": fields, "status_code": status, "body": body, "context": {"operation_name": operation.name}}
    service = operation.service_model.service_id.hyphenize()
    customized: dict[str, Any] = {}
    client.meta.events.emit(
        f"before-parse.{service}.{operation.name}",
        operation_model=operation,
        response_dict=response,
        customized_response_dict=customized,
    )
    if response["status_code"] != status:
        return None
    parser = endpoint._response_parser_factory.create_parser(operation.service_model.resolved_protocol)
    parsed: dict[str, Any] = parser.parse(response, operation.output_shape)
    parsed.update(customized)
    if status >= 300:
        endpoint._add_modeled_error_fields(response, parsed, operation, parser)
    answer = AWSResponse("", status, fields, None)
    if isinstance(body, bytes):  # for those handlers that read XML of their own
        answer.raw = answer._content = body
    client.meta.events.emit(
        f"after-call.{service}.{operation.name}",
        http_response=answer,
        parsed=parsed,
        model=operation,
        context=context,
    )
    return parsed
