"""Signatures that leave the function: presigned URLs, forms for S3's POST, database tokens. The host makes them.

botocore's query signers are patched as classes, so libraries that use them directly (token makers of EKS, MSK and the
like) are served as well as clients are.
"""

import datetime as dt
import json
from typing import Any

import botocore.auth
from botocore.auth import S3SigV4PostAuth, SigV4QueryAuth
from botocore.exceptions import ClientError

from ... import abi
from ...device import BackendError, Channel, call

_ROOM = 1 << 15
_AUTH = "X-Amz-Algorithm="
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def is_placeholder(credentials: Any) -> bool:
    """Whether these are the credentials that every guest is given."""
    return getattr(credentials, "access_key", None) == abi.PLACEHOLDER_KEY_ID


def install(channel: Channel) -> None:
    """Patch botocore's query and form signers."""
    sign_query = SigV4QueryAuth.add_auth
    sign_form = S3SigV4PostAuth.add_auth

    def add_query(self: Any, request: Any) -> None:
        if is_placeholder(self.credentials):
            _presign(channel, self, request)
        else:
            sign_query(self, request)

    def add_form(self: Any, request: Any) -> None:
        if is_placeholder(self.credentials):
            _form(channel, self, request)
        else:
            sign_form(self, request)

    SigV4QueryAuth.add_auth = add_query
    S3SigV4PostAuth.add_auth = add_form


def _presign(channel: Channel, signer: Any, request: Any) -> None:
    request.context["timestamp"] = "19700101T000000Z"
    # What the operation itself has in the query and in a form body is put in front by botocore.
    signer._modify_request_before_signing(request)
    url = request.url.rpartition(_AUTH)[0].rstrip("?&")
    headers = [[name, value] for name, value in signer.headers_to_sign(request).items() if name.lower() != "host"]
    payload = signer.payload(request)
    answer = _ask(
        channel,
        signer,
        {
            "method": request.method,
            "url": url,
            "headers": headers,
            "expires_s": _seconds(signer._expires),
            "payload_hash": payload,
        },
    )
    request.url = answer["url"]


def _form(channel: Channel, signer: Any, request: Any) -> None:
    policy = request.context.get("s3-presign-post-policy") or {}
    fields = request.context.get("s3-presign-post-fields")
    if fields is None:
        fields = request.context["s3-presign-post-fields"] = {}
    answer = _ask(
        channel,
        signer,
        {
            "method": "POST",
            "url": request.url,
            "expires_s": _until(policy.get("expiration")),
            "conditions": policy.get("conditions") or [],
        },
    )
    fields.update(answer["fields"])


def _until(expiration: Any) -> int:
    """Seconds until a policy's expiration."""
    if expiration is None:
        return 3600
    end = dt.datetime.strptime(expiration, botocore.auth.ISO8601).replace(tzinfo=dt.UTC)
    left = end - dt.datetime.now(dt.UTC)
    return _seconds(round(left.total_seconds()))


def _seconds(value: Any) -> int:
    """As the ABI takes it; the host caps it from above."""
    return min(max(int(value), 1), 1 << 31)


def _ask(channel: Channel, signer: Any, fields: dict[str, Any]) -> Any:
    head = {**fields, "service": signer._service_name, "region": signer._region_name}
    try:
        reply = call(channel, abi.PRESIGN, _encode(head).encode("utf-8"), room_min=_ROOM, room_max=_ROOM)
    except BackendError as error:
        if error.status == abi.STATUS_DENIED:
            raise denied(error, "Presign") from error
        raise ValueError(f"the host does not sign this: {error.message}") from error
    answer = json.loads(reply.head)
    reply.release()
    return answer


def denied(error: BackendError, operation: str) -> ClientError:
    """What AWS raises where a policy forbids a call."""
    details = {"Error": {"Code": "AccessDenied", "Message": error.message}}
    return ClientError({**details, "ResponseMetadata": {"HTTPStatusCode": 403, "RetryAttempts": 0}}, operation)
