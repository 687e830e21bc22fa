"""Where each package makes and secures its sockets."""

import functools
import os
import types
from typing import Any

from .sockets import Connector, WebSocket

# Any object that is no number means the default, as urllib3 has it.
_DEFAULT = object()


class _SocketModule(types.ModuleType):
    """The socket module with another `create_connection`, for one package's eyes."""

    def __init__(self, real: types.ModuleType, connector: Connector) -> None:
        super().__init__(real.__name__, real.__doc__)
        self.__dict__["_real"] = real
        self.__dict__["create_connection"] = connector.create_connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)


def http_client(module: Any, connector: Connector) -> None:
    """Patch http.client, and with it urllib.request and http.client's other users."""
    module.socket = _SocketModule(module.socket, connector)


def urllib3_connect(module: Any, connector: Connector) -> None:
    """Patch urllib3.util.connection, and with it requests."""
    real = module.create_connection

    @functools.wraps(real)
    def create_connection(
        address: Any,
        timeout: Any = _DEFAULT,
        source_address: Any = None,
        socket_options: Any = None,
    ) -> Any:
        host, port = address
        if source_address is not None:
            given = () if timeout is _DEFAULT else (timeout,)
            return real(address, *given, source_address=source_address, socket_options=socket_options)
        try:
            host.strip("[]").encode("idna")
        except UnicodeError:
            raise module.LocationParseError(f"'{host.strip('[]')}', label empty or too long") from None
        return connector.create_connection((host.strip("[]"), port), timeout, socket_options=socket_options or ())

    module.create_connection = create_connection


def urllib3_wait(module: Any) -> None:
    """Patch urllib3.connection: whether a kept connection was dropped is asked of the socket itself."""
    real = getattr(module, "wait_for_read", None)
    if real is None:
        return

    @functools.wraps(real)
    def wait_for_read(sock: Any, timeout: float | None = None) -> bool:
        return sock.has_news if isinstance(sock, WebSocket) else real(sock, timeout)

    module.wait_for_read = wait_for_read


def httpcore(module: Any, connector: Connector) -> None:
    """Patch httpcore's backend for threads, and with it httpx."""
    from . import tls

    module.socket = _SocketModule(module.socket, connector)
    real = module.SyncStream.get_extra_info

    @functools.wraps(real)
    def get_extra_info(self: Any, info: str) -> Any:
        sock = self._sock
        if isinstance(sock, WebSocket):
            if info == "ssl_object":
                return sock if isinstance(sock, tls.SecureSocket) else None
            if info == "is_readable":
                return sock.has_news
        return real(self, info)

    module.SyncStream.get_extra_info = get_extra_info


def secure(module: Any, connector: Connector) -> None:
    """Patch ssl: contexts secure such sockets on the host, and remember what they cannot be asked for."""
    context = module.SSLContext

    def noting(name: str, note: Any) -> None:
        real = getattr(context, name)

        @functools.wraps(real)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            from . import tls

            result = real(self, *args, **kwargs)
            note(tls.notes(self), *args, **kwargs)
            return result

        setattr(context, name, method)

    def alpn(notes: Any, alpn_protocols: Any) -> None:
        notes.alpn = [p.decode("ascii") if isinstance(p, bytes) else str(p) for p in alpn_protocols]

    def identity(notes: Any, *_: Any, **__: Any) -> None:
        notes.identity = True

    def locations(notes: Any, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
        if capath is not None:
            notes.folders.append(os.fsdecode(capath))

    def default_paths(notes: Any, *_: Any, **__: Any) -> None:
        notes.default_paths = True
        named = os.environ.get("SSL_CERT_DIR", "").split(":")
        notes.folders += [folder for folder in named if folder and folder not in notes.folders]

    noting("set_alpn_protocols", alpn)
    noting("load_cert_chain", identity)
    noting("load_verify_locations", locations)
    noting("set_default_verify_paths", default_paths)
    noting("load_default_certs", default_paths)
    wrap_socket = context.wrap_socket

    @functools.wraps(wrap_socket)
    def wrap(self: Any, sock: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(sock, WebSocket):
            return wrap_socket(self, sock, *args, **kwargs)
        from . import tls

        if self.protocol == module.PROTOCOL_TLS_SERVER:
            raise module.SSLError(0, "Cannot create a client socket with a PROTOCOL_TLS_SERVER context (_ssl.c:801)")
        if tls.notes(self).identity or tls.asks_for_more(self):
            # The key of its certificate is not the host's to have, or it verifies as the host does not.
            with sock:
                plain = connector.plain(sock)
            return wrap_socket(self, plain, *args, **kwargs)
        return tls.wrap(self, sock, kwargs.get("server_hostname"))

    context.wrap_socket = wrap
