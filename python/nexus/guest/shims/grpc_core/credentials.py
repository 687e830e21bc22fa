"""What channel and call credentials come to: TLS settings for the host, metadata for the call."""

import base64
import hashlib
import re
import threading
from typing import Any

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


class Unserved(Exception):
    """Credentials that stay with the C core and its sockets."""


def settings(credentials: Any, host: str, override: str | None) -> tuple[dict[str, Any] | None, bytes, tuple[Any, ...]]:
    """TLS settings, authorities and call credentials of a channel's. Raises Unserved."""
    calls: tuple[Any, ...] = ()
    while hasattr(credentials, "_channel_credentials"):
        calls += tuple(credentials._call_credentialses)
        credentials = credentials._channel_credentials
    if credentials is None:
        return None, b"", calls
    if not hasattr(credentials, "_pem_root_certificates") or credentials._private_key is not None:
        raise Unserved
    pem = credentials._pem_root_certificates
    authorities = b"".join(base64.b64decode(block) for block in _BLOCK.findall(pem)) if pem else b""
    tls = {
        "server_name": override or host,
        "verify": True,
        "check_hostname": True,
        "authorities": hashlib.sha256(authorities).hexdigest() if authorities else None,
        "host_authorities": pem is None,
        "alpn": ["h2"],
        "tls12": True,
        "tls13": True,
    }
    return tls, authorities, calls


def metadata(calls: Any, service_url: str, method: str, limit: float) -> list[Any]:
    """What call credentials add to a call. Raises RuntimeError with the reason, where a plugin fails, TimeoutError."""
    found: list[Any] = []
    for credentials in calls:
        if hasattr(credentials, "_call_credentialses"):
            found += metadata(credentials._call_credentialses, service_url, method, limit)
            continue
        answered = threading.Event()
        answer: list[Any] = []

        def callback(pairs: Any, code: Any, details: Any, answer: list[Any] = answer, done: threading.Event = answered) -> None:
            answer.extend((pairs, code, details))
            done.set()

        credentials._metadata_plugin(service_url, method, callback)
        if not answered.wait(limit):
            raise TimeoutError("it did not answer in time")
        pairs, code, details = answer
        if int(code) != 0:
            raise RuntimeError(details.decode() if isinstance(details, bytes) else str(details))
        found += pairs or ()
    return found
