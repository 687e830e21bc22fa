"""Web clients with their connections and TLS on the host: http.client, urllib.request, urllib3, requests, httpx.

The cut is the socket. The packages write and parse HTTP themselves, so whatever they do above a socket (redirects,
cookies, retries, proxies, time-outs, exceptions) is theirs. What they connect and secure is a conversation that the
backend has; it keeps the connections, and gives them from one exchange to the next.
"""

from ...device import open_channel
from ...imports import when_imported
from . import packages
from .sockets import Connector


def install() -> None:
    """Patch the packages, now or when they are imported."""
    connector = Connector(open_channel())
    when_imported("ssl", lambda ssl: packages.secure(ssl, connector))
    when_imported("http.client", lambda module: packages.http_client(module, connector))
    when_imported("urllib3.util.connection", lambda module: packages.urllib3_connect(module, connector))
    when_imported("urllib3.connection", packages.urllib3_wait)
    when_imported("httpcore._backends.sync", lambda module: packages.httpcore(module, connector))
