"""The backend's errors as the exceptions that botocore itself would raise."""

import http.client

from botocore import exceptions

from ... import abi
from ...device import BackendError


def as_sent(error: BackendError, url: str, request: object = None) -> Exception:
    """For a request that got no answer."""
    url = url or error.endpoint
    if error.status == abi.STATUS_TIMEOUT:
        return exceptions.ReadTimeoutError(endpoint_url=url, error=error)
    if error.status == abi.STATUS_TRANSPORT:
        if error.name == "ConnectionClosedError":
            return exceptions.ConnectionClosedError(error=error, request=request, endpoint_url=url)
        if error.name in {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "SSLError"}:
            kind: type[Exception] = getattr(exceptions, error.name)
            return kind(endpoint_url=url, error=error)
        if error.name == "FlexibleChecksumError":
            return exceptions.FlexibleChecksumError(error_msg=error.message)
    return exceptions.HTTPClientError(error=error)


def as_streamed(error: BackendError) -> Exception:
    """For a body that broke midway: what the HTTP library under urllib3 would raise."""
    if error.status == abi.STATUS_TIMEOUT or error.name == "ReadTimeoutError":
        return TimeoutError(error.message)
    if error.name == "IncompleteReadError":
        return http.client.IncompleteRead(b"")
    if error.name == "FlexibleChecksumError":
        return exceptions.FlexibleChecksumError(error_msg=error.message)
    return error
