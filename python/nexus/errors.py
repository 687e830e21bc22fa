"""What can go wrong, as exceptions whose text tells what to do next."""

from __future__ import annotations


class NexusError(Exception):
    """Something the user can act on.

    :param message: what happened, to what.
    :param hint: what to do next; empty where the message says it already.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}: {hint}" if hint else message)
        self.message = message
        self.hint = hint


class ServiceError(NexusError):
    """The node answered a request with an error.

    :param status: HTTP status.
    :param kind: error type as in ``x-amzn-ErrorType``, such as ``ResourceNotFoundException``.
    :param body: the whole answer; for a failed initialisation it has ``errorType``, ``stackTrace`` and ``log``.
    """

    def __init__(self, status: int, kind: str, message: str, body: dict[str, object]) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.body = body


class FunctionError(NexusError):
    """The function's handler raised, timed out or died.

    Attributes as in Lambda's error payload: ``error_type``, ``error_message``, ``stack_trace`` (a list of text
    lines), and ``log``: the last 4 KiB of the invocation's log, where it was asked for.
    """

    def __init__(self, payload: object, log: str = "") -> None:
        fields: dict[str, object] = payload if isinstance(payload, dict) else {}
        self.payload = payload
        self.error_type = str(fields.get("errorType", "Unhandled"))
        self.error_message = str(fields.get("errorMessage", ""))
        trace = fields.get("stackTrace", [])
        self.stack_trace = [str(line) for line in trace] if isinstance(trace, list) else []
        self.log = log
        super().__init__(f"{self.error_type}: {self.error_message}")
