"""A socket whose connection the backend has."""

import errno
import json
import operator
import os
import socket
import sys
import threading
import time
from collections import deque
from typing import Any, NoReturn, Self

from ... import abi
from ...device import Channel, Reply, guard, waiting
from ...device.mutex import Barred
from ...device.pages import Buffer
from ...device.ticket import Ticket

# What one send hands over at a time, and how much of that may wait for the network (pieces).
_PIECE = 1 << 17
_WAITING = 3
# Options of a socket as they are where nobody asks for others, and those that are passed on to the host's connections.
_USUAL = {(socket.IPPROTO_TCP, socket.TCP_NODELAY): 1}
_PASSED_ON = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
}
_SWITCHES = {(socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_NODELAY)}
# As tcp(7) has them.
_DEFAULTS = {
    (socket.SOL_SOCKET, socket.SO_TYPE): socket.SOCK_STREAM,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 7200,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 75,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 9,
}

# Room of the first READ; it grows while bytes keep filling it.
_ROOM_MIN = 1 << 14
_ROOM_MAX = 1 << 20

# How long a kept connection is asked whether it has news, where only a READ tells; and how often one that was left in
# flight is looked at (seconds).
_GLANCE = 0.001
_LOOK_EVERY = 0.005

_decode = json.JSONDecoder().decode


def _is_parents(channel: Channel) -> bool:
    """Whether a fork made this process: the channel, and what it has of such sockets, is its parent's."""
    return isinstance(channel.lock, Barred)


def milliseconds(timeout: float | None) -> int:
    """A time-out for a submission: 0 means none."""
    return 0 if timeout is None else max(1, min(round(timeout * 1000), 0xFFFFFFFF))


def raise_failure(reply: Reply) -> NoReturn:
    """Raise what a socket of one's own would have raised."""
    try:
        head: Any = _decode(reply.head)
    except ValueError:
        head = {}
    error, number, message = head.get("error"), head.get("errno", 0), head.get("message", "")
    reply.release()
    if error == "gaierror":
        raise socket.gaierror(number, message)
    if reply.status == abi.STATUS_TIMEOUT:
        raise TimeoutError("timed out")
    if error in {"SSLCertVerificationError", "SSLError", "SSLEOFError"}:
        from . import tls

        raise tls.failure(error, number, message)
    if reply.status == abi.STATUS_DENIED:
        raise PermissionError(number, message)
    if error == "OSError":
        raise OSError(number, os.strerror(number))
    if reply.status == abi.STATUS_NO_STREAM:
        raise BrokenPipeError(32, os.strerror(32))
    raise OSError(f"{error}: {message}")


class Connector:
    """Makes such sockets."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def create_connection(
        self,
        address: tuple[str, int],
        timeout: Any = None,
        source_address: tuple[str, int] | None = None,
        *,
        socket_options: Any = None,
        **options: Any,
    ) -> Any:
        """As `socket.create_connection`; and as a socket with just these options, if any are given."""
        host, port = address[0], _port(address[1])
        if isinstance(timeout, (str, bytes)):
            raise TypeError(f"'{type(timeout).__name__}' object cannot be interpreted as an integer")
        if timeout is not None and not isinstance(timeout, (int, float)):
            timeout = socket.getdefaulttimeout()
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        if source_address is not None:
            return socket.create_connection(address, timeout, source_address, **options)
        made = _inside(host, port, timeout)
        if made is None and not _is_parents(self.channel):
            return WebSocket(self.channel, host, port, timeout, socket_options)
        if made is None:
            # In a process that fork made there is no arena, but there are sockets.
            made = socket.create_connection((host, port), timeout)
        for option in socket_options or ():
            made.setsockopt(*option)
        return made

    def plain(self, made: "WebSocket") -> socket.socket:
        """A socket of the guest's own to where `made` leads. Raises OSError where a proxy leads on from there."""
        if made._used:
            made.close()
            raise OSError(
                errno.EOPNOTSUPP,
                "a client's certificate, or verification flags of one's own, cannot be used in a tunnel through a proxy",
            )
        return socket.create_connection(made._target, made.gettimeout())


def _port(given: Any) -> int:
    """A port's number, which may be given as getaddrinfo(3) takes it."""
    if isinstance(given, (str, bytes)):
        digits = given[1:] if given[:1] in {"-", b"-"} else given
        named = not digits.isdigit()
        given = socket.getaddrinfo(None, given, type=socket.SOCK_STREAM)[0][4][1] if named else int(given)
    number = operator.index(given or 0)
    if number < 0:
        raise socket.gaierror(socket.EAI_SERVICE, "Servname not supported for ai_socktype")
    return number & 0xFFFF


def listens_inside(host: str, port: int) -> bool:
    """Whether a server of this instance's own has that port."""
    if host not in {"localhost", "::1", "::", "0.0.0.0"} and not host.startswith(("127.", "::ffff:127.")):
        return False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _inside(host: str, port: int, timeout: float | None) -> socket.socket | None:
    """A connection to a server inside this instance, if one listens there."""
    if not listens_inside(host, port):
        return None
    try:
        return socket.create_connection((host, port), timeout)
    except OSError:
        return None


class WebSocket:
    """What web clients use of a `socket.socket`, over one conversation of the backend's."""

    type = socket.SOCK_STREAM
    proto = 6

    # These work on whatever has `_io_refs`, `_closed` and `_real_close`.
    makefile: Any = socket.socket.makefile
    close: Any = socket.socket.close
    _decref_socketios: Any = socket.socket._decref_socketios  # type: ignore[attr-defined]
    # And these on whatever has `send`.
    sendfile: Any = socket.socket._sendfile_use_send  # type: ignore[attr-defined]
    _check_sendfile_params: Any = socket.socket._check_sendfile_params  # type: ignore[attr-defined]

    _read_timeout_text = "timed out"
    _write_timeout_text = "timed out"

    def __init__(self, channel: Channel, host: str, port: int, timeout: float | None, options: Any = None) -> None:
        self._io_refs = 0
        self._closed = False
        self._channel = channel
        self._target = (host, port)
        self._timeout = timeout
        self._stream = 0
        self._options = dict(_USUAL)
        if options is not None:
            self._options[socket.IPPROTO_TCP, socket.TCP_NODELAY] = 0
            for level, option, value, *_ in options:
                self._options[level, option] = _number((level, option), value)
        self._reset()
        self._open()

    def _reset(self) -> None:
        self._generation = self._channel.restores
        self._pending: deque[Ticket] = deque()
        self._sending = threading.Lock()
        self._ready = memoryview(b"")
        self._ended = False
        self._shut = False
        self._room = _ROOM_MIN
        # A READ whose wait a signal's handler ended: what comes next is its.
        self._reading: Ticket | None = None
        # The host looks after its connection no more: see `has_news`.
        self._own = False
        self._used = False

    def _open(self) -> None:
        host, port = self._target
        name = host.strip("[]").encode("idna").decode("ascii")
        if not name:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        target: dict[str, Any] = {"host": name, "port": port}
        if options := self._passed_on():
            target["options"] = options
        head = json.dumps(target).encode()
        self._upload, ticket = self._channel.submit(
            abi.WEB_CONNECT, head, room_min=1 << 12, room_max=1 << 12, timeout_ms=milliseconds(self._timeout)
        )
        reply = Reply(self._channel, ticket)
        if reply.status < 0:
            raise_failure(reply)
        self._stream = reply.stream
        self.peer: dict[str, Any] = _decode(reply.head)
        reply.release()

    def _reopen(self) -> None:
        """After a restore: the backend of before is another instance's."""
        self._reset()
        self._open()

    # -- sending -----------------------------------------------------------------------------------------------

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        """Hand all of `data` over. What goes wrong with it may show at a later call."""
        self._check()
        with memoryview(data) as given, given.cast("B") as view:
            if not len(view):
                return
            if self._generation != self._channel.restores:
                self._reopen()
            self._used = True
            with self._sending:
                for start in range(0, len(view), _PIECE):
                    self._settle(_WAITING)
                    piece = view[start : start + _PIECE]
                    _, ticket = self._channel.submit(
                        abi.BODY,
                        b"",
                        piece,
                        flags=abi.MORE_BODY,
                        stream=self._upload,
                        timeout_ms=milliseconds(self._timeout),
                    )
                    self._pending.append(ticket)

    def send(self, data: Buffer, flags: int = 0) -> int:
        """As `sendall`."""
        self.sendall(data)
        return memoryview(data).nbytes

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
        """As `sendall`, of several."""
        data = b"".join(buffers)
        self.sendall(data, flags)
        return len(data)

    def _settle(self, most: int) -> None:
        """Look at what became of earlier pieces; wait until at most `most` are on their way."""
        while self._pending and (len(self._pending) >= most or self._pending[0].completion is not None):
            reply = Reply(self._channel, self._pending.popleft())
            if reply.status == abi.STATUS_TIMEOUT:
                raise TimeoutError(self._write_timeout_text)
            if reply.status < 0:
                raise_failure(reply)

    def shutdown(self, how: int) -> None:
        """End one direction, or both."""
        self._check()
        if how != socket.SHUT_RD and not self._shut:
            self._shut = True
            with self._sending:
                _, ticket = self._channel.submit(abi.BODY, b"", b"", stream=self._upload)
                self._pending.append(ticket)
        if how != socket.SHUT_WR:
            self._release()

    # -- receiving ---------------------------------------------------------------------------------------------

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into `buffer`; 0 at the end."""
        self._check()
        with memoryview(buffer) as given, given.cast("B") as target:
            if nbytes < 0:
                raise ValueError("negative buffersize in recv_into")
            if nbytes > len(target):
                raise ValueError("buffer too small for requested bytes")
            data = self._take(nbytes or len(target), flags)
            target[: len(data)] = data
            return len(data)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Up to `bufsize` bytes; none at the end."""
        self._check()
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        return bytes(self._take(bufsize, flags))

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, None]:
        """As `recv`: who sent it is not told of a stream."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, None]:
        """As `recv_into`."""
        return self.recv_into(buffer, nbytes, flags), None

    def _take(self, wanted: int, flags: int) -> memoryview:
        """Up to `wanted` of what has come, as recv(2) does it."""
        # A socket with a time-out waits with poll(2), whatever the flag says.
        timeout = 0.0 if flags & socket.MSG_DONTWAIT and self._timeout is None else self._timeout
        if not wanted or (not self._ready and not self._fill(wanted, timeout)):
            return memoryview(b"")
        data = self._ready[:wanted]
        if not flags & socket.MSG_PEEK:
            self._ready = self._ready[len(data) :]
        return data

    def _fill(self, wanted: int, timeout: float | None) -> bool:
        """Have something in `_ready`; False at the end."""
        with guard:
            return self._fill_guarded(wanted, timeout)

    def _fill_guarded(self, wanted: int, timeout: float | None) -> bool:
        if self._ended:
            return False
        if self._generation != self._channel.restores:
            raise ConnectionResetError(104, "Connection reset by peer")
        ticket, self._reading = self._reading, None
        earlier = ticket is not None
        try:
            if ticket is None:
                ticket = self._ask(wanted, timeout)
                self._channel.settle(ticket)
            else:
                self._look(ticket, timeout)
        except BaseException:  # a signal's handler, or a time-out: what comes is for whoever receives next
            self._reading = ticket
            raise
        completion, room = ticket.completion, ticket.room
        reply = Reply(self._channel, ticket)
        if reply.status == abi.STATUS_TIMEOUT:
            reply.release()
            if earlier:
                return self._fill_guarded(wanted, timeout)
            self._late(timeout)
        if reply.status < 0:
            self._ended = True
            if reply.status == abi.STATUS_NO_STREAM:
                return False
            raise_failure(reply)
        self._own = completion is not None and completion.flags & abi.OWN != 0
        self._ready = memoryview(bytes(reply.body))
        reply.release()
        self._room = _ROOM_MIN if len(self._ready) < room // 2 else min(room * 2, _ROOM_MAX)
        if not reply.more:
            self._ended = True
        return len(self._ready) > 0

    def _ask(self, wanted: int, timeout: float | None) -> Ticket:
        room = min(max(self._room, min(wanted, _ROOM_MAX)), self._channel.room_limit)
        _, ticket = self._channel.submit(
            abi.READ, room_min=1 << 12, room_max=room, stream=self._stream, timeout_ms=milliseconds(timeout)
        )
        return ticket

    def _look(self, ticket: Ticket, timeout: float | None) -> None:
        """Wait for a READ that was left in flight, whose own time-out was another."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._channel.lock:
                self._channel.drain()
            if ticket.completion is not None:
                return
            if until is not None and time.monotonic() >= until:
                self._late(timeout)
            with waiting:
                time.sleep(_LOOK_EVERY)

    def _late(self, timeout: float | None) -> NoReturn:
        if timeout == 0:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        raise TimeoutError(self._read_timeout_text)

    @property
    def has_news(self) -> bool:
        """Whether there are bytes that nobody has read yet, or the end."""
        if self._ready or self._ended or _is_parents(self._channel):
            return True
        # What the pool keeps it also looks after; the rest ends with the instance that it was made in.
        if not self._own or self._generation != self._channel.restores:
            return self._own
        try:
            self._fill(_ROOM_MIN, _GLANCE)
        except TimeoutError:
            return False
        except OSError:
            return True
        return True

    # -- the rest of a socket ----------------------------------------------------------------------------------

    def settimeout(self, value: float | None) -> None:
        """As for a socket (seconds)."""
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = None if value is None else float(value)

    def gettimeout(self) -> float | None:
        return self._timeout

    timeout = property(gettimeout)

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        return self._timeout != 0

    def _passed_on(self) -> list[list[int]]:
        options = {key: value for key, value in self._options.items() if key in _PASSED_ON}
        return [] if options == _USUAL else [[*key, value] for key, value in options.items()]

    def setsockopt(self, level: int, option: int, value: Any, length: int | None = None) -> None:
        """As for a socket, for what matters to the host's connection: from the next one on, if this one is in use."""
        self._check()
        key = (level, option)
        before = dict(self._options)
        self._options[key] = _number(key, value)
        if key not in _PASSED_ON or self._options == before or self._generation != self._channel.restores:
            return
        head = json.dumps({"options": self._passed_on()}).encode()
        _, ticket = self._channel.submit(abi.WEB_TUNE, head, room_min=1 << 12, room_max=1 << 12, stream=self._stream)
        reply = Reply(self._channel, ticket)
        if reply.status < 0:
            self._options = before
            raise_failure(reply)
        reply.release()

    def getsockopt(self, level: int, option: int, length: int = 0) -> int | bytes:
        """What was set, or what a socket has where nothing was."""
        self._check()
        value = self._options.get((level, option), _DEFAULTS.get((level, option), 0))
        return value.to_bytes(4, sys.byteorder, signed=True)[:length] if length else value

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET if len(self.getpeername()) == 2 else socket.AF_INET6

    def getpeername(self) -> tuple[str, int] | tuple[str, int, int, int]:
        return _address(self.peer["address"])

    def getsockname(self) -> tuple[str, int] | tuple[str, int, int, int]:
        return _address(self.peer["local"])

    def fileno(self) -> int:
        """-1: there is no descriptor."""
        return -1

    def detach(self) -> int:
        """Let go; there is no descriptor to keep."""
        self._closed = True
        self._release()
        return -1

    def _check(self) -> None:
        if self._closed and self._io_refs <= 0:
            raise OSError(9, "Bad file descriptor")

    def _real_close(self) -> None:
        self._release()

    def _release(self) -> None:
        stream, self._stream = self._stream, 0
        self._ended = True
        self._ready = memoryview(b"")
        if not stream or self._generation != self._channel.restores or _is_parents(self._channel):
            return
        # What was sent is on its way still.
        while self._pending:
            self._channel.abandon(self._pending.popleft())
        if self._reading is not None:
            self._channel.abandon(self._reading)
            self._reading = None
        self._channel.post(abi.CLOSE, stream=stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._closed:
            self.close()

    def __del__(self) -> None:
        # Also called by the collector, inside any allocation: no locks here.
        if getattr(self, "_stream", 0) and self._generation == self._channel.restores:
            place = 0, 0
            if (reading := self._reading) is not None:
                if reading.completion is None:
                    reading.abandoned = True
                else:
                    place = reading.offset, reading.held
            self._channel.discard(*place, self._stream)

    def __repr__(self) -> str:
        return f"<nexus {type(self).__name__} to {self._target[0]}:{self._target[1]}>"


def _number(key: tuple[int, int], value: Any) -> int:
    """An option's value as it is set and shown; what is no number has no effect here."""
    if not isinstance(value, int):
        value = int.from_bytes(bytes(value or b"")[:4], sys.byteorder, signed=True)
    return int(bool(value)) if key in _SWITCHES else value


def _address(text: str) -> tuple[str, int] | tuple[str, int, int, int]:
    """As the socket module has it: an IPv6 address with flow label and scope."""
    host, port = text.rsplit(":", 1)
    if host.startswith("["):
        return host.strip("[]"), int(port), 0, 0
    return host, int(port)
