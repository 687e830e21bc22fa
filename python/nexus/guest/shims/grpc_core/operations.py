"""The operations that grpc._channel asks of a call, and the events that it gets for them."""

from typing import Any


class Operation:
    """One operation; `done` once its outcome is known."""

    kind = ""

    def __init__(self, *_: Any) -> None:
        self.done = False
        self.real_type: Any = None

    def type(self) -> Any:
        return self.real_type


class SendInitialMetadata(Operation):
    """Metadata for the server, and flags."""

    kind = "send_initial_metadata"

    def __init__(self, metadata: Any, flags: int) -> None:
        super().__init__()
        self.metadata = metadata
        self.flags = flags


class SendMessage(Operation):
    """One message, serialised."""

    kind = "send_message"

    def __init__(self, message: bytes, flags: int) -> None:
        super().__init__()
        self.content = message
        self.queued = False


class SendClose(Operation):
    """There will be no other message."""

    kind = "send_close_from_client"


class ReceiveInitialMetadata(Operation):
    """The server's metadata before its messages."""

    kind = "receive_initial_metadata"
    metadata: Any = ()

    def initial_metadata(self) -> Any:
        return self.metadata


class ReceiveMessage(Operation):
    """The next message; None where there is none."""

    kind = "receive_message"
    content: bytes | None = None

    def message(self) -> bytes | None:
        return self.content


class ReceiveStatus(Operation):
    """How the call ended."""

    kind = "receive_status_on_client"
    outcome: Any = None

    def trailing_metadata(self) -> Any:
        return self.outcome.trailing

    def code(self) -> Any:
        return self.outcome.code

    def details(self) -> str:
        return str(self.outcome.details)

    def error_string(self) -> str:
        return str(self.outcome.debug)


class Event:
    """All operations of one batch are done."""

    success = True

    def __init__(self, completion_type: Any, tag: Any, operations: Any) -> None:
        self.completion_type = completion_type
        self.tag = tag
        self.batch_operations = operations


# By number.
STATUS_NAMES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
