"""The backend's errors as the exceptions that botocore itself would raise."""

import http.client
from typing import Any

from botocore import exceptions

from ... import abi
from ...device import BackendError


def as_sent(error: BackendError, url: str, request: object = None) -> BaseException:
    """For a request that got no answer."""
    raised: BaseException = exceptions.HTTPClientError(error=error)
    url = url or error.endpoint
    if error.status == abi.STATUS_TIMEOUT:
        raised = exceptions.ReadTimeoutError(endpoint_url=url, error=error)
    elif error.status == abi.STATUS_TRANSPORT:
        if error.name == "ConnectionClosedError":
            raised = exceptions.ConnectionClosedError(error=error, request=request, endpoint_url=url)
        elif error.name in {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "SSLError"}:
            kind: Any = getattr(exceptions, error.name)
            raised = kind(endpoint_url=url, error=error)
        elif error.name == "FlexibleChecksumError":
            raised = exceptions.FlexibleChecksumError(error_msg=error.message)
    return raised


def as_streamed(error: BackendError, partial: bytes, missing: int | None) -> BaseException:
    """For a body that broke midway: what the HTTP library under urllib3 would raise."""
    if error.status == abi.STATUS_TIMEOUT or error.name == "ReadTimeoutError":
        return TimeoutError(error.message)
    if error.name == "IncompleteReadError":
        return http.client.IncompleteRead(partial, missing)
    if error.name == "FlexibleChecksumError":
        broken: BaseException = exceptions.FlexibleChecksumError(error_msg=error.message)
        return broken
    return error
