"""The `context` argument of a handler, as AWS Lambda's Python runtime makes it."""

import os
import sys
import time
from typing import Any

_CLIENT_FIELDS = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")


class CognitoIdentity:
    """Who called, where the caller came through Amazon Cognito; else both are None."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self, fields: dict[str, Any] | None) -> None:
        fields = fields or {}
        self.cognito_identity_id = fields.get("cognitoIdentityId")
        self.cognito_identity_pool_id = fields.get("cognitoIdentityPoolId")

    def __repr__(self) -> str:
        return (
            f"CognitoIdentity([cognito_identity_id={self.cognito_identity_id},"
            f"cognito_identity_pool_id={self.cognito_identity_pool_id}])"
        )


class Client:
    """The mobile application that called."""

    __slots__ = _CLIENT_FIELDS

    def __init__(self, fields: dict[str, Any]) -> None:
        for name in _CLIENT_FIELDS:
            setattr(self, name, fields.get(name))

    def __repr__(self) -> str:
        return "Client([" + ",".join(f"{name}={getattr(self, name)}" for name in _CLIENT_FIELDS) + "])"


class ClientContext:
    """What the caller passed as `ClientContext`."""

    __slots__ = ("client", "custom", "env")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.custom = fields.get("custom")
        self.env = fields.get("env")
        client = fields.get("client")
        self.client = Client(client) if isinstance(client, dict) else None

    def __repr__(self) -> str:
        return f"ClientContext([custom={self.custom},env={self.env},client={self.client}])"


class LambdaContext:
    """One invocation, as its handler sees it."""

    def __init__(self, invocation: dict[str, Any]) -> None:
        self.aws_request_id: str = invocation["request_id"]
        self.log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.function_version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.invoked_function_arn: str | None = invocation.get("function_arn")
        self.tenant_id: str | None = invocation.get("tenant_id")
        fields = invocation.get("client_context")
        self.client_context = ClientContext(fields) if isinstance(fields, dict) else None
        self.identity = CognitoIdentity(invocation.get("identity"))
        self._epoch_deadline_time_in_ms = int(invocation.get("deadline_ms") or 0)

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until this invocation is ended."""
        return max(self._epoch_deadline_time_in_ms - int(time.time() * 1000), 0)

    def log(self, msg: object) -> None:
        """Write `msg` to the log."""
        sys.stdout.write(str(msg))

    def __repr__(self) -> str:
        return (
            f"LambdaContext([aws_request_id={self.aws_request_id},log_group_name={self.log_group_name},"
            f"log_stream_name={self.log_stream_name},function_name={self.function_name},"
            f"memory_limit_in_mb={self.memory_limit_in_mb},function_version={self.function_version},"
            f"invoked_function_arn={self.invoked_function_arn},client_context={self.client_context},"
            f"identity={self.identity},tenant_id={self.tenant_id}])"
        )
