"""TLS that the host does, as a context of the guest's asks for it. Imports ssl: loaded with the first secured socket."""

import base64
import hashlib
import json
import os
import re
import ssl
import sys
import tempfile
from typing import Any

from ... import abi
from ...device import Reply
from .sockets import WebSocket, milliseconds, raise_failure

_ROOM = 1 << 16
# The protocol's numbers (RFC 8446, 4.1.2): contexts name lowest and highest by these.
_TLS12, _TLS13 = 0x0303, 0x0304
_LINE = "_ssl.c:1006"
# What the host verifies anyway: an authority that is trusted ends a chain, whoever issued it. VERIFY_X509_STRICT is in every
# default context since 3.13 (it refuses certificates that RFC 5280 would have written otherwise): there it asks for nothing.
_VERIFIED = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
if sys.version_info >= (3, 13):
    _VERIFIED |= ssl.VERIFY_X509_STRICT
# Bytes of authorities that the host takes.
_MOST = 1 << 20
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_TEXTS = {
    "WRONG_VERSION_NUMBER": "wrong version number",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "sslv3 alert handshake failure",
    "TLSV1_ALERT_PROTOCOL_VERSION": "tlsv1 alert protocol version",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "tlsv13 alert certificate required",
}


def failure(error: str, number: int, message: str) -> ssl.SSLError:
    """The exception that ssl itself would have raised."""
    raised: ssl.SSLError
    if error == "SSLCertVerificationError":
        text = f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {message} ({_LINE})"
        raised = ssl.SSLCertVerificationError(1, text)
        raised.reason = "CERTIFICATE_VERIFY_FAILED"
        raised.verify_code, raised.verify_message = number, message
    elif error == "SSLEOFError":
        raised = ssl.SSLEOFError(8, f"[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol ({_LINE})")
        raised.reason = message
    elif message in _TEXTS:
        raised = ssl.SSLError(1, f"[SSL: {message}] {_TEXTS[message]} ({_LINE})")
        raised.reason = message
    else:
        raised = ssl.SSLError(1, message)
    raised.library = "SSL"
    return raised


class Notes:
    """What a context was told and does not tell again."""

    __slots__ = ("alpn", "authorities", "counted", "default_paths", "folders", "identity")

    def __init__(self) -> None:
        self.alpn: list[str] = []
        self.default_paths = False
        # With certificates by the hashes of their subjects (SSL_CTX_load_verify_locations(3)).
        self.folders: list[str] = []
        # It shows a certificate of its own: its key stays here, so such connections are sockets.
        self.identity = False
        self.counted: object = None
        self.authorities: tuple[str, bytes] | None = None


def notes(context: Any) -> Notes:
    """The notes on `context`, made at the first call."""
    found = context.__dict__.get("_nexus_notes")
    if found is None:
        found = context.__dict__["_nexus_notes"] = Notes()
    return found  # type: ignore[no-any-return]


def _authorities(context: Any, kept: Notes) -> tuple[str, bytes] | None:
    """Digest and bytes of what `context` trusts by itself."""
    counted = context.cert_store_stats(), [(folder, _changed(folder)) for folder in kept.folders]
    if kept.counted != counted:
        data = b"".join([*context.get_ca_certs(binary_form=True), *_filed(kept.folders)])
        kept.authorities = (hashlib.sha256(data).hexdigest(), data) if data else None
        kept.counted = counted
    return kept.authorities


def _changed(folder: str) -> int:
    """When; 0 where there is no such folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _filed(folders: list[str]) -> list[bytes]:
    """The certificates in folders, which the context itself looks up once it needs them: in DER, each once."""
    found: dict[bytes, None] = {}
    for folder in folders:
        try:
            names = sorted(name for name in os.listdir(folder) if _HASHED.fullmatch(name))
        except OSError:
            continue
        for name in names:
            try:
                with open(os.path.join(folder, name), encoding="latin-1") as file:
                    texts = _CERTIFICATE.findall(file.read(_MOST + 1))
                found.update((ssl.PEM_cert_to_DER_cert(text), None) for text in texts)
            except (OSError, ValueError):  # the context does without it, too
                continue
    return list(found)


def asks_for_more(context: Any) -> bool:
    """Whether `context` is to verify what the host does not, or by more than it takes: such connections are sockets."""
    if context.verify_mode == ssl.CERT_NONE:
        return False
    authorities = _authorities(context, notes(context))
    return bool(context.verify_flags & ~_VERIFIED) or (authorities is not None and len(authorities[1]) > _MOST)


def _settings(context: Any, name: str | None) -> tuple[dict[str, Any], bytes]:
    kept = notes(context)
    authorities = _authorities(context, kept) if context.verify_mode != ssl.CERT_NONE else None
    lowest, highest = int(context.minimum_version), int(context.maximum_version)
    allowed = [
        (lowest < 0 or lowest <= version) and (highest < 0 or highest >= version) and not context.options & refused
        for version, refused in ((_TLS12, ssl.OP_NO_TLSv1_2), (_TLS13, ssl.OP_NO_TLSv1_3))
    ]
    named = "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ
    return {
        "server_name": name,
        "verify": context.verify_mode != ssl.CERT_NONE,
        "check_hostname": context.check_hostname,
        "authorities": authorities[0] if authorities else None,
        "host_authorities": kept.default_paths and not named,
        "alpn": kept.alpn,
        "tls12": allowed[0],
        "tls13": allowed[1],
    }, authorities[1] if authorities else b""


class SecureSocket(WebSocket):
    """What web clients use of an `ssl.SSLSocket`."""

    _read_timeout_text = "The read operation timed out"
    _write_timeout_text = "The write operation timed out"

    def __init__(self, plain: WebSocket, context: Any, server_hostname: str | None) -> None:
        if context.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        # The conversation moves over here, and the plain socket is detached from it.
        self.__dict__.update(plain.__dict__)
        self._io_refs = 0
        plain._stream = 0
        plain._closed = True
        self.context = context
        self.server_hostname = server_hostname
        self.server_side = False
        self.session = None
        self.session_reused = False
        self._inner = plain if isinstance(plain, SecureSocket) else None
        try:
            self._secure()
        except BaseException:
            self._closed = True
            self._release()
            raise

    def _reopen(self) -> None:
        if self._inner is not None:
            raise ConnectionResetError(104, "Connection reset by peer")
        super()._reopen()
        self._secure()

    def _secure(self) -> None:
        name = self.server_hostname
        if name is not None:
            name = name.encode("idna").decode("ascii") if not name.isascii() else name
        settings, authorities = _settings(self.context, name)
        head = json.dumps(settings).encode()
        with self._sending:
            self._settle(1)
        for body in (b"", authorities):
            _, ticket = self._channel.submit(
                abi.WEB_TLS,
                head,
                body,
                room_min=_ROOM,
                room_max=_ROOM,
                stream=self._stream,
                timeout_ms=milliseconds(self._timeout),
            )
            reply = Reply(self._channel, ticket)
            if reply.status != abi.STATUS_INVALID or "UnknownAuthorities" not in reply.head or not authorities:
                break
            reply.release()
        if reply.status == abi.STATUS_TIMEOUT:
            raise TimeoutError("_ssl.c:989: The handshake operation timed out")
        if reply.status < 0:
            raise_failure(reply)
        self.peer = json.loads(reply.head)
        reply.release()

    def _take(self, wanted: int, flags: int) -> memoryview:
        if flags:
            raise ValueError(f"non-zero flags not allowed in calls to recv() on {ssl.SSLSocket}")
        return super()._take(wanted, flags)

    def recvfrom(self, bufsize: int, flags: int = 0) -> Any:
        """As `SSLSocket.recvfrom`: it raises."""
        raise ValueError(f"recvfrom not allowed on instances of {ssl.SSLSocket}")

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> Any:
        """As `SSLSocket.recvfrom_into`: it raises."""
        raise ValueError(f"recvfrom_into not allowed on instances of {ssl.SSLSocket}")

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
        """As `SSLSocket.sendmsg`: it raises."""
        raise NotImplementedError(f"sendmsg not allowed on instances of {ssl.SSLSocket}")

    # -- what ssl.SSLSocket has beyond a socket ----------------------------------------------------------------

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - ssl's own
        """As `SSLSocket.read`."""
        return self.recv(len) if buffer is None else self.recv_into(buffer, len)

    write = WebSocket.send

    def pending(self) -> int:
        return len(self._ready)

    def do_handshake(self, block: bool = False) -> None:
        """Nothing: it is done."""

    def version(self) -> str | None:
        return str(self.peer["tls"]["version"]).replace("_", ".")

    def cipher(self) -> tuple[str, str, int] | None:
        name = _openssl_name(self.peer["tls"]["cipher"])
        bits = 128 if "128" in name else 256
        return name, "TLSv1.3" if name.startswith("TLS_") else "TLSv1.2", bits

    def selected_alpn_protocol(self) -> str | None:
        alpn = self.peer["tls"]["alpn"]
        return None if alpn is None else str(alpn)

    def selected_npn_protocol(self) -> str | None:
        return None

    def compression(self) -> str | None:
        return None

    def shared_ciphers(self) -> None:
        return None

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """None: the binding is known to the host alone."""
        return None

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The server's certificate, as `SSLSocket.getpeercert` gives it."""
        chain = self.peer["tls"]["chain"]
        if not chain:
            return None
        der = base64.b64decode(chain[0])
        if binary_form:
            return der
        if self.context.verify_mode == ssl.CERT_NONE:
            return {}
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(ssl.DER_cert_to_PEM_cert(der))
            file.flush()
            return ssl._ssl._test_decode_cert(file.name)  # type: ignore[attr-defined]

    def unwrap(self) -> Any:
        """TLS cannot be taken off: the host has it."""
        raise ValueError(f"No SSL wrapper around {self!r}")


def _openssl_name(suite: str) -> str:
    if suite.startswith("TLS13_"):
        return "TLS_" + suite[6:]
    exchange, _, cipher = suite.removeprefix("TLS_").partition("_WITH_")
    cipher = cipher.replace("AES_", "AES").replace("_", "-").replace("POLY1305-SHA256", "POLY1305")
    return f"{exchange.replace('_', '-')}-{cipher}"


def wrap(context: Any, plain: WebSocket, server_hostname: Any) -> SecureSocket:
    """As `SSLContext.wrap_socket`, for a client."""
    if isinstance(server_hostname, bytes):
        server_hostname = server_hostname.decode("ascii")
    return SecureSocket(plain, context, server_hostname)
