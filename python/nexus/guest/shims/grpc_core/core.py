"""The face of grpcio's core that grpc._channel sees."""

import re
import threading
import time
import types
import weakref
from collections import deque
from typing import Any

from ...device import Channel, Selection
from ...device.ticket import Ticket
from ..web.sockets import WebSocket, listens_inside
from . import credentials, operations, wire
from .call import Call, Request
from .traffic import Traffic

_TARGET = re.compile(r"(?:(?:dns:(?://[^/]*/)?)|(?:ipv[46]:))?(\[[^\]]+\]|[^:/\[\],]+)(?::(\d+))?")
_SCHEME = re.compile(r"(?:dns|ipv4|ipv6):")
_MAX_PORT = (1 << 16) - 1
_DEFAULT_LIMIT = 4 << 20
_NO_LIMIT = -1
_PROBE_S = 20.0
_OPERATIONS = {
    "SendInitialMetadataOperation": operations.SendInitialMetadata,
    "SendMessageOperation": operations.SendMessage,
    "SendCloseFromClientOperation": operations.SendClose,
    "ReceiveInitialMetadataOperation": operations.ReceiveInitialMetadata,
    "ReceiveMessageOperation": operations.ReceiveMessage,
    "ReceiveStatusOnClientOperation": operations.ReceiveStatus,
}


def shadow(real: types.ModuleType, channel: Channel) -> types.ModuleType:
    """The core's module, with channels of the backend's where those can serve."""
    module = types.ModuleType(real.__name__, real.__doc__)
    module.__dict__.update(real.__dict__)
    traffic = Traffic(channel)
    module.__dict__["Channel"] = lambda target, options, creds: _choose(real, channel, traffic, target, options, creds)
    for name, kind in _OPERATIONS.items():
        module.__dict__[name] = _Maker(real, name, kind)
    return module


class _Maker:
    """Makes one kind of operation; `real` makes it for a channel that is the C core's."""

    def __init__(self, real: Any, name: str, kind: Any) -> None:
        self._kind = kind
        self._type = getattr(real.OperationType, kind.kind)
        self._real = getattr(real, name)

    def __call__(self, *arguments: Any) -> operations.Operation:
        operation: operations.Operation = self._kind(*arguments)
        operation.real_type = self._type
        operation.real = lambda: self._real(*arguments)  # type: ignore[attr-defined]
        return operation


def _choose(real: Any, channel: Channel, traffic: Traffic, target: bytes, options: Any, creds: Any) -> Any:
    text = target.decode()
    matched = _TARGET.fullmatch(text)
    if matched is None or int(matched[2] or 0) > _MAX_PORT:
        return RealChannel(real.Channel(target, options, creds))
    host, port = matched[1].strip("[]"), int(matched[2] or 443)
    if listens_inside(host, port):
        return RealChannel(real.Channel(target, options, creds))
    try:
        return CoreChannel(real, channel, traffic, text, (host, port), options, creds)
    except credentials.Unserved:
        return RealChannel(real.Channel(target, options, creds))


class RealChannel:
    """The C core's channel, for servers inside the instance and credentials that stay there."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def segregated_call(self, *arguments: Any) -> Any:
        return _RealCall(self._channel.segregated_call(*arguments[:6], _real_batches(arguments[6]), *arguments[7:]))

    def integrated_call(self, *arguments: Any) -> Any:
        return _RealCall(self._channel.integrated_call(*arguments[:6], _real_batches(arguments[6]), *arguments[7:]))


class _RealCall:
    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def operate(self, batch: Any, tag: Any) -> Any:
        return self._call.operate(tuple(operation.real() for operation in batch), tag)


def _real_batches(batches: Any) -> Any:
    return tuple((tuple(operation.real() for operation in batch), tag) for batch, tag in batches)


class CoreChannel:
    """A channel whose calls the backend makes."""

    def __init__(
        self,
        real: Any,
        channel: Channel,
        traffic: Traffic,
        text: str,
        target: tuple[str, int],
        options: Any,
        creds: Any,
    ) -> None:
        self._real = real
        self._channel = channel
        self._traffic = traffic
        self._text = text
        self._target = target
        self._options = {(k.decode() if isinstance(k, bytes) else k): v for k, v in options or ()}
        override = self._options.get("grpc.ssl_target_name_override")
        override = override.decode() if isinstance(override, bytes) else override
        self._tls, self._authorities, self._call_credentials = credentials.settings(creds, target[0], override)
        authority = self._options.get("grpc.default_authority") or override or _SCHEME.sub("", text.rsplit("/", 1)[-1], count=1)
        self._authority = authority.decode() if isinstance(authority, bytes) else authority
        self._datum = getattr(real, "_Metadatum", lambda key, value: (key, value))
        self._selection = Selection(channel)
        self._events: deque[Any] = deque()
        self._calls: set[Call] = set()
        # Those whose callers wait for them.
        self._alone: weakref.WeakSet[Call] = weakref.WeakSet()
        self._closed: str | None = None
        self._condition = threading.Condition()
        self._state = real.ConnectivityState.idle

    # -- calls -------------------------------------------------------------------------------------------------

    def segregated_call(
        self, flags: Any, method: bytes, host: Any, deadline: Any, metadata: Any, creds: Any, batches: Any, *_: Any
    ) -> "SegregatedCall":
        """A call whose events its caller waits for."""
        return SegregatedCall(self, method, deadline, creds, batches)

    def integrated_call(
        self, flags: Any, method: bytes, host: Any, deadline: Any, metadata: Any, creds: Any, batches: Any, *_: Any
    ) -> Call:
        """A call whose events come by `next_call_event`."""
        call: Call

        def watch(owner: Call, ticket: Ticket) -> None:
            self._selection.add(ticket, owner)

        def emit(tag: Any, batch: Any) -> None:
            self._events.append(operations.Event(self._real.CompletionType.operation_complete, tag, batch))
            self._selection.wake()

        call = self.make_call(method, deadline, creds, batches, watch, emit)
        with self._condition:
            self._calls.add(call)
        call.start(list(batches), whole=False)
        return call

    def next_call_event(self) -> Any:
        """The next event of any integrated call."""
        while not self._events:
            found = self._selection.wait()
            if found is not None:
                ticket, call = found
                call.completed(ticket)
        with self._condition:
            self._calls = {call for call in self._calls if not call.over}
        return self._events.popleft()

    def make_call(self, method: bytes, deadline: Any, creds: Any, batches: Any, watch: Any, emit: Any) -> Call:
        """A call that has not begun. Raises ValueError where the channel is closed."""
        if self._closed is not None:
            raise ValueError("Cannot invoke RPC on closed channel!")
        first = next(op for batch, _ in batches for op in batch if op.kind == "send_initial_metadata")
        given, encoding = self._encoding(first.metadata)
        failed = None
        try:
            pairs = wire.outgoing(given)
        except ValueError:
            pairs, failed = [], (13, "Invalid metadata")
        pairs.append(("user-agent", self._user_agent()))
        pairs.append(("grpc-accept-encoding", wire.ACCEPTED))
        if encoding is not None:
            pairs.append(("grpc-encoding", encoding))
        path = method.decode()
        plugins = (*self._call_credentials, *(() if creds is None else (creds,)))
        if plugins and self._tls is None:
            failed = failed or (
                16,
                "Established channel does not have a sufficient security level to transfer call credential.",
            )
        elif plugins:
            limit = _PROBE_S if deadline is None else max(0.0, deadline - time.time())
            service = f"https://{self._authority.removesuffix(':443')}{path.rpartition('/')[0]}"
            try:
                pairs += wire.outgoing(credentials.metadata(plugins, service, path.rpartition("/")[2], limit))
            except ValueError:
                failed = (14, "Illegal metadata")
            except TimeoutError as error:
                failed = (
                    (4, "Deadline Exceeded")
                    if deadline is not None
                    else (14, f"Getting metadata from plugin failed with error: {error}")
                )
            except RuntimeError as error:
                failed = (14, f"Getting metadata from plugin failed with error: {error}")
        fields = {
            "host": self._target[0],
            "port": self._target[1],
            "authority": self._authority,
            "path": path,
            "tls": self._tls,
            "deadline_ms": None,
            "wait_for_ready": bool(first.flags & self._real.InitialMetadataFlags.wait_for_ready),
        }
        limit = int(self._options.get("grpc.max_receive_message_length", _DEFAULT_LIMIT))
        send_limit = int(self._options.get("grpc.max_send_message_length", _NO_LIMIT))
        request = Request(fields, pairs, encoding, self._authorities, limit, send_limit)
        call = Call(self._channel, self._traffic, request, deadline, self._datum, watch, emit, self.event, self._reached)
        if failed is not None:
            call.fail(*failed)
        return call

    def wait_alone(self, call: Call) -> None:
        """`close` is to end a call whose caller waits for it, too."""
        with self._condition:
            self._alone.add(call)

    def _reached(self, reached: bool) -> None:
        """A call has reached the server, or could not."""
        states = self._real.ConnectivityState
        state = states.ready if reached else states.transient_failure
        if self._state != state:
            self._become(state)

    def _encoding(self, metadata: Any) -> tuple[Any, str | None]:
        """Metadata without the mark for a compression, and the encoding to use."""
        mark = self._real.GRPC_COMPRESSION_REQUEST_ALGORITHM_MD_KEY
        mark = mark.decode() if isinstance(mark, bytes) else mark
        chosen = wire.ENCODINGS.get(int(self._options.get("grpc.default_compression_algorithm", 0)))
        kept = []
        for key, value in metadata or ():
            if key == mark:
                name = value.decode() if isinstance(value, bytes) else value
                chosen = None if name == "identity" else name
            else:
                kept.append((key, value))
        return tuple(kept), chosen

    def _user_agent(self) -> str:
        parts = [self._options.get(f"grpc.{which}_user_agent") for which in ("primary", "secondary")]
        texts = [part.decode() if isinstance(part, bytes) else str(part) for part in parts if part]
        return " ".join([*texts[:1], "nexus (linux)", *texts[1:]])

    # -- the channel itself --------------------------------------------------------------------------------------

    def target(self) -> bytes:
        return self._text.encode()

    def get_registered_call_handle(self, method: Any) -> int:
        return 0

    def check_connectivity_state(self, try_to_connect: bool) -> Any:
        """The state; where it is idle, `try_to_connect` begins to connect."""
        states = self._real.ConnectivityState
        with self._condition:
            if self._closed is not None:
                return states.shutdown
            before = self._state
            if try_to_connect and before in {states.idle, states.transient_failure}:
                self._state = states.connecting
                self._condition.notify_all()
                threading.Thread(target=self._probe, daemon=True).start()
            return before

    def _probe(self) -> None:
        states = self._real.ConnectivityState
        while self._closed is None:
            try:
                WebSocket(self._channel, *self._target, _PROBE_S).close()
            except OSError:
                self._become(states.transient_failure)
                time.sleep(1)
                self._become(states.connecting)
            else:
                self._become(states.ready)
                return

    def _become(self, state: Any) -> None:
        with self._condition:
            self._state = state
            self._condition.notify_all()

    def watch_connectivity_state(self, last_observed: Any, deadline: float | None) -> Any:
        """Wait for another state than `last_observed`."""
        if self._closed is not None:
            raise ValueError(f"Channel closed: {self._closed}")
        with self._condition:
            limit = None if deadline is None else max(0.0, deadline - time.time())
            changed = self._condition.wait_for(lambda: self._state != last_observed or self._closed is not None, limit)
        event = operations.Event(self._real.CompletionType.operation_complete, None, ())
        event.success = bool(changed)
        return event

    def close(self, code: Any, details: str) -> None:
        """Cancel all calls; there will be no other."""
        with self._condition:
            if self._closed is not None:
                return
            self._closed = details
            self._condition.notify_all()
            calls = [*self._calls, *self._alone]
        for call in calls:
            call.cancel(int(code), details)

    def cancel_calls_on_fork(self, code: Any, details: str) -> None:
        """Nothing: there is no fork."""

    def close_on_fork(self, code: Any, details: str) -> None:
        """Nothing: there is no fork."""

    # -- for calls with one thread -------------------------------------------------------------------------------

    @property
    def device(self) -> Channel:
        return self._channel

    def event(self, tag: Any, batch: Any) -> operations.Event:
        return operations.Event(self._real.CompletionType.operation_complete, tag, batch)


class SegregatedCall:
    """A call whose events its caller waits for."""

    def __init__(self, channel: CoreChannel, method: bytes, deadline: Any, creds: Any, batches: Any) -> None:
        self._selection = selection = Selection(channel.device)
        self._events: deque[Any] = deque()
        events = self._events

        def emit(tag: Any, batch: Any) -> None:
            events.append(channel.event(tag, batch))
            selection.wake()  # it may come of what another thread sends

        self._call = channel.make_call(method, deadline, creds, batches, lambda call, ticket: selection.add(ticket, call), emit)
        channel.wait_alone(self._call)
        kinds = [operation.kind for batch, _ in batches for operation in batch]
        self._call.start(list(batches), whole={"send_close_from_client", "receive_message"} <= set(kinds))

    def operate(self, batch: Any, tag: Any) -> bool:
        return self._call.operate(batch, tag)

    def cancel(self, code: Any, details: str) -> None:
        self._call.cancel(int(code), details)

    def next_event(self) -> Any:
        """The next event, waited for."""
        while not self._events:
            found = self._selection.wait()
            if found is not None:
                self._call.completed(found[0])
        return self._events.popleft()
