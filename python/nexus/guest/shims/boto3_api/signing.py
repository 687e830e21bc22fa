"""Placeholder credentials: such requests leave the guest unsigned, marked with the scope to sign them for."""

from typing import Any

import botocore.auth
from botocore.signers import RequestSigner

from ... import abi
from .presign import is_placeholder

_MARK = f"AWS4-HMAC-SHA256 Credential={abi.PLACEHOLDER_KEY_ID}/"
_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
# Signature versions of old, and what the host signs instead.
_NEWER = {"s3": "s3v4", "s3-query": "s3v4-query", "s3-presign-post": "s3v4-presign-post"}
# A body that goes over in parts is hashed here, where it can be read twice.
_IN_ONE_PIECE = 1 << 16


class PlaceholderAuth(botocore.auth.BaseSigner):  # type: ignore[misc]
    """Takes the place of a SigV4 signer: names the scope in the Authorization header, computes nothing."""

    def __init__(self, service: str, region: str, *, is_s3: bool) -> None:
        self._value = f"{_MARK}{region}/{service}/aws4_request"
        self._is_s3 = is_s3
        self._hasher = botocore.auth.SigV4Auth(None, service, region)

    def add_auth(self, request: Any) -> None:
        headers = request.headers
        if "Authorization" in headers:
            del headers["Authorization"]
        headers["Authorization"] = self._value + self._payload_hash(request)
        algorithm = request.context.get("checksum", {}).get("request_algorithm")
        if self._is_s3 and isinstance(algorithm, dict) and algorithm.get("in") == "trailer":
            headers["X-Amz-Content-SHA256"] = _TRAILER

    def _payload_hash(self, request: Any) -> str:
        """Behind the scope: the hash of a large body, which services other than S3 want signed."""
        body = request.body
        if self._is_s3 or body is None or (isinstance(body, (bytes, bytearray)) and len(body) <= _IN_ONE_PIECE):
            return ""
        hashed: str = self._hasher.payload(request)
        return f"/{hashed}"


def scope(authorization: str) -> dict[str, str] | None:
    """The scope that `PlaceholderAuth` noted in an Authorization header, or None."""
    if not authorization.startswith(_MARK):
        return None
    region, service, _, *payload_hash = authorization[len(_MARK) :].split("/")
    found = {"service": service, "region": region}
    if payload_hash:
        found["payload_hash"] = payload_hash[0]
    return found


def choose(credentials: Any, service: str, region: str, version: Any) -> tuple[Any, PlaceholderAuth | None]:
    """The signature version to use, and the signer where these are the placeholder credentials and the host signs."""
    if not is_placeholder(credentials):
        return version, None
    version = _NEWER.get(version, version)
    if version in {"v4", "s3v4"}:
        return version, PlaceholderAuth(service, region, is_s3=version == "s3v4")
    return version, None


def install() -> None:
    """Patch botocore's RequestSigner, the one place where requests are signed."""
    original = RequestSigner.get_auth_instance

    def get_auth_instance(
        self: RequestSigner,
        signing_name: str,
        region_name: str,
        signature_version: Any = None,
        **kwargs: Any,
    ) -> Any:
        given = kwargs.get("request_credentials") or self._credentials
        version = signature_version or self.signature_version
        version, auth = choose(given, signing_name, region_name, version)
        return auth or original(self, signing_name, region_name, version, **kwargs)

    RequestSigner.get_auth_instance = get_auth_instance
    RequestSigner.get_auth = get_auth_instance
