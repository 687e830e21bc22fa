"""Placeholder credentials: such requests leave the guest unsigned, marked with the scope to sign them for."""

from typing import Any

import botocore.auth
from botocore.signers import RequestSigner

from ... import abi

_MARK = f"AWS4-HMAC-SHA256 Credential={abi.PLACEHOLDER_KEY_ID}/"
_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
_PRESIGNED = ("-query", "-presign-post")


class UnsupportedByPlaceholder(NotImplementedError):
    """Something that needs the secret key itself, which stays on the host."""


class PlaceholderAuth(botocore.auth.BaseSigner):  # type: ignore[misc]
    """Takes the place of a SigV4 signer: names the scope in the Authorization header, computes nothing."""

    def __init__(self, service: str, region: str, *, is_s3: bool) -> None:
        self._value = f"{_MARK}{region}/{service}/aws4_request"
        self._is_s3 = is_s3

    def add_auth(self, request: Any) -> None:
        headers = request.headers
        if "Authorization" in headers:
            del headers["Authorization"]
        headers["Authorization"] = self._value
        algorithm = request.context.get("checksum", {}).get("request_algorithm")
        if self._is_s3 and isinstance(algorithm, dict) and algorithm.get("in") == "trailer":
            headers["X-Amz-Content-SHA256"] = _TRAILER


def scope(authorization: str) -> dict[str, str] | None:
    """The scope that `PlaceholderAuth` noted in an Authorization header, or None."""
    if not authorization.startswith(_MARK):
        return None
    region, service, _ = authorization[len(_MARK) :].rsplit("/", 2)
    return {"service": service, "region": region}


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
        auth = original(self, signing_name, region_name, signature_version, **kwargs)
        key_id = getattr(getattr(auth, "credentials", None), "access_key", None)
        if key_id != abi.PLACEHOLDER_KEY_ID:
            return auth
        version = signature_version or self.signature_version
        if version in {"v4", "s3v4"}:
            return PlaceholderAuth(signing_name, region_name, is_s3=version == "s3v4")
        if str(version).endswith(_PRESIGNED):
            raise UnsupportedByPlaceholder(
                f"presigning {signing_name} needs the secret key, which stays outside the function's sandbox: pass "
                "credentials of your own to the client, or presign where the result is used"
            )
        return auth

    RequestSigner.get_auth_instance = get_auth_instance
    RequestSigner.get_auth = get_auth_instance
