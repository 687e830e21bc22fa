"""Level *api*: `BaseClient._make_api_call` of the real boto3, with S3's hot operations handed to the host.

Whatever is not plainly an ordinary call falls through to real botocore at level *http*, so every check, exception and
corner is botocore's own.
"""

import contextlib
import gc
import time
from collections.abc import Callable
from typing import Any

from botocore.client import BaseClient
from botocore.history import get_global_history_recorder

from .... import abi
from ....device import BackendError, Channel, Reply, exchange, guard, settled, waiting
from ....device.body import ArenaBody
from ....device.native import native
from .. import errors
from . import body as bodies
from .eligibility import Reference, Verdict, still_holds
from .operations import OPERATIONS
from .request import RequestPlan
from .response import Headers, ResponsePlan, parse

_VERDICT = "_nexus_verdict"
_HEAD_ROOM = 1 << 14
_GET_ROOM = (1 << 20) + _HEAD_ROOM
# Pauses before another attempt where the instance has too much in flight (seconds).
_BUSY_DELAYS_S = (0.01, 0.05, 0.25, 1.0, None)
# Answers after which real botocore does more than raise: redirects, clock skew, another region.
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REGIONAL = (b"AuthorizationHeaderMalformed", b"IllegalLocationConstraint", b"PermanentRedirect", b"RequestTimeTooSkewed")
# Errors that it tries again, whatever their status; the host does by status alone.
_RETRIED = tuple(
    b"<Code>" + code
    for code in (
        b"Throttl",
        b"RequestThrottle",
        b"RequestTimeout",
        b"RequestLimitExceeded",
        b"BandwidthLimitExceeded",
        b"SlowDown",
        b"LimitExceededException",
        b"TooManyRequestsException",
        b"PriorRequestNotComplete",
        b"TransactionInProgressException",
    )
)


def _room(name: str) -> int:
    """Bytes for an operation's reply, where there is room."""
    return _GET_ROOM if name == "GetObject" else 1 << 17 if name.startswith("List") else _HEAD_ROOM * 2


class FastPath:
    """S3's hot operations over one channel."""

    def __init__(self, channel: Channel, client: Any, original: Callable[..., Any]) -> None:
        self._channel = channel
        self._original = original
        self._reference = Reference(client)
        self._history = get_global_history_recorder()
        model = client.meta.service_model
        self._models = {name: model.operation_model(name) for name in OPERATIONS}
        self._requests = {name: RequestPlan(operation) for name, operation in self._models.items()}
        self._responses = {name: ResponsePlan(operation) for name, operation in self._models.items()}
        # Does an ordinary call as `call` would, or says None, or what came instead of an ordinary answer.
        self._quick: Callable[..., Any] | None = None
        if native and channel.calls:
            plans = {name: self._plan(name) for name, plan in self._responses.items() if plan.native}
            calls = native.Calls(channel.calls, abi.S3, plans, _VERDICT, self._history)
            self._quick = calls.call

    def _plan(self, name: str) -> dict[str, Any]:
        """The fields of the native module's `Plan`."""
        request = self._requests[name]
        room = min(_room(name), self._channel.room_limit)
        return {"requests": request.native, "answers": self._responses[name].native, "body": request.body, "room": room}

    def method(self) -> Callable[..., Any]:
        """What stands for `_make_api_call`."""
        call, quick, settle = self.call, self._quick, self.settle
        if quick is None:

            def _make_api_call(self: BaseClient, operation_name: str, api_params: Any) -> Any:
                return call(self, operation_name, api_params)
        else:

            def _make_api_call(self: BaseClient, operation_name: str, api_params: Any) -> Any:
                with guard:
                    result = quick(self, operation_name, api_params)
                    if type(result) is dict:
                        return result
                    if result is not None:
                        return settle(self, operation_name, api_params, result)
                return call(self, operation_name, api_params)

        return _make_api_call

    def call(self, client: Any, name: str, params: dict[str, Any]) -> Any:
        """What `_make_api_call` does."""
        plan = self._requests.get(name)
        if plan is None or not isinstance(params, dict):
            return self._original(client, name, params)
        verdict: Verdict | None = client.__dict__.get(_VERDICT)
        if verdict is None or not still_holds(verdict, client):
            verdict = self.judge(client)
        if not verdict.eligible or self._history._enabled:
            return self._original(client, name, params)
        answers = self._responses[name].native
        head = plan.head(params, verdict.region, verdict.endpoint, validates=verdict.validates, answers=answers)
        content: Any = b""
        length = None
        if head is None:
            request = plan.build(client, params, verdict.region, verdict.endpoint, validates=verdict.validates)
            if request is None:
                return self._original(client, name, params)
            head, content, length = request
        if plan.body is not None and plan.body in params:
            given = params[plan.body]
            content = bodies.outgoing(given, self._channel.room_limit)
            if content is None:
                return self._original(client, name, params)
            if content is not given and not isinstance(given, str):
                # A file has been read: should real botocore have to take over, it gets the bytes.
                params = {**params, plan.body: content}
        if length is not None and length != len(content):
            return self._original(client, name, params)
        with guard:
            reply = self._exchange(name, head, content)
            if isinstance(reply, dict):
                return reply
            result = None if reply is None else self._result(client, name, reply, verdict, params)
        return self._original(client, name, params) if result is None else result

    def settle(self, client: Any, name: str, params: dict[str, Any], taken: Any) -> Any:
        """The end of a call that the native module has begun, of which came `taken`, not an ordinary answer."""
        if isinstance(taken, dict):
            return taken
        result = None
        try:
            reply = settled(self._channel, taken)
        except BackendError as error:
            if error.status == abi.STATUS_BUSY:
                return self.call(client, name, params)
            _raise_as_sent(error)
        else:
            result = self._result(client, name, reply, client.__dict__[_VERDICT], params)
        return self._original(client, name, params) if result is None else result

    def judge(self, client: Any) -> Verdict:
        """Look at a client, and remember there what was found out."""
        verdict = self._reference.judge(client)
        client.__dict__[_VERDICT] = verdict
        return verdict

    def _exchange(self, name: str, head: Any, content: Any) -> Reply | dict[str, Any] | None:
        """Have the host do it: the reply, or the result. None where real botocore should try; raises what botocore raises without
        an answer.
        """
        room = self._channel.share(_room(name), _HEAD_ROOM)
        for delay in _BUSY_DELAYS_S:
            try:
                return exchange(self._channel, abi.S3, head, content, _HEAD_ROOM, room)
            except BackendError as error:
                if error.status == abi.STATUS_BUSY and delay is not None:
                    with waiting:
                        time.sleep(delay)
                    continue
                _raise_as_sent(error)
                return None
        return None

    def _result(
        self,
        client: Any,
        name: str,
        reply: Reply,
        verdict: Verdict,
        params: dict[str, Any],
    ) -> dict[str, Any] | None:
        """What an answer becomes, or raises; None where real botocore should see one for itself: a body that broke off, too."""
        try:
            return self._read(client, name, reply, verdict, params)
        except BackendError:
            return None

    def _read(self, client: Any, name: str, reply: Reply, verdict: Verdict, params: dict[str, Any]) -> dict[str, Any] | None:
        plan = self._responses[name]
        status, headers, retries, result = plan.read(reply.head)
        if status >= 300:
            self._raise(client, name, reply, status, headers, retries)
            return None
        if result is None:
            return self._parsed(client, name, reply, status, headers, retries, verdict, params)
        details = result["ResponseMetadata"]
        if plan.payload is not None:
            verify = verdict.validates or "ChecksumMode" in params
            result[plan.payload], algorithm = bodies.incoming(self._channel, reply, headers.lowered, verify=verify)
            if algorithm is not None:
                details["ChecksumAlgorithm"] = algorithm
        elif reply.more or reply.body_length:
            self._finish(reply)
        details["RetryAttempts"] = retries
        return result

    def _finish(self, reply: Reply) -> bytes:
        """The whole rest of a body. Raises BackendError where that breaks off."""
        if reply.more:
            with ArenaBody(self._channel, reply) as rest:
                return rest.read()
        data = bytes(reply.body)
        reply.release()
        return data

    def _parsed(
        self,
        client: Any,
        name: str,
        reply: Reply,
        status: int,
        headers: Headers,
        retries: int,
        verdict: Verdict,
        params: dict[str, Any],
    ) -> dict[str, Any] | None:
        content: Any
        algorithm = None
        if self._responses[name].payload is not None:
            verify = verdict.validates or "ChecksumMode" in params
            content, algorithm = bodies.incoming(self._channel, reply, headers.lowered, verify=verify)
        else:
            content = self._finish(reply)
        context = {"encoding_type_auto_set": True} if "EncodingType" not in params else {}
        result = parse(client, self._models[name], status, headers, content, context)
        if result is not None:
            if algorithm is not None:
                result["ResponseMetadata"]["ChecksumAlgorithm"] = algorithm
            result["ResponseMetadata"]["RetryAttempts"] = retries
        return result

    def _raise(
        self,
        client: Any,
        name: str,
        reply: Reply,
        status: int,
        headers: Headers,
        retries: int,
    ) -> None:
        """Raise the exception for an answer of 300 and over; returns where real botocore should see it for itself."""
        content = self._finish(reply)
        if status in _REDIRECTS or any(code in content for code in _REGIONAL) or (status == 400 and not content):
            return
        if not retries and any(code in content for code in _RETRIED):
            return
        parsed = parse(client, self._models[name], status, headers, content, {})
        if parsed is None:
            return
        details = parsed.get("ResponseMetadata", {})
        if retries and (status >= 500 or status == 429):
            details["MaxAttemptsReached"] = True
        details["RetryAttempts"] = retries
        kind = client.exceptions.from_code(parsed.get("Error", {}).get("Code"))
        raise kind(parsed, name)


def _raise_as_sent(error: BackendError) -> None:
    """Raise what botocore raises where no answer came; nothing for what it should try itself."""
    if error.status in {abi.STATUS_TRANSPORT, abi.STATUS_TIMEOUT}:
        raise errors.as_sent(error, error.endpoint) from error


def install(channel: Channel, client: Any) -> None:
    """Patch `BaseClient._make_api_call`. `client` is an S3 client as it comes, for comparison and rehearsal."""
    from .rehearsal import rehearse

    original = BaseClient._make_api_call
    rehearse(client, original)
    fast = FastPath(channel, client, original)
    BaseClient._make_api_call = fast.method()
    _installed.append(fast)


_installed: list[FastPath] = []


def judge_clients() -> None:
    """Look at every S3 client that there is, before the snapshot: the first call of a clone would do it, and touch all of the
    client's event handlers for it (a sixth of the CPU of a cold GET and PUT).
    """
    for fast in _installed:
        for found in gc.get_objects():
            # By its type: asking a proxy for its class could make it do things.
            if issubclass(type(found), BaseClient):
                # One that cannot be looked at is looked at by its first call, which says why.
                with contextlib.suppress(Exception):
                    fast.judge(found)
