"""What can go wrong between the guest and its backend."""

from .. import abi

_NAMES = {
    abi.STATUS_INVALID: "InvalidSubmission",
    abi.STATUS_TRANSPORT: "TransportError",
    abi.STATUS_DENIED: "AccessDenied",
    abi.STATUS_TIMEOUT: "Timeout",
    abi.STATUS_NO_STREAM: "NoStream",
    abi.STATUS_NO_ROOM: "NoRoom",
    abi.STATUS_BUSY: "Busy",
}


class DeviceUnavailableError(OSError):
    """There is no arena, or one that this guest cannot use."""


class ArenaFullError(MemoryError):
    """The arena's heap has no room left and nobody is about to give any back."""


class BackendError(OSError):
    """The backend refused or failed an operation.

    `status` is one of the ABI's statuses, `name` the error's name (for transport errors the name of botocore's
    exception class), `endpoint` the URL it was about, where known.
    """

    def __init__(self, status: int, name: str, message: str, endpoint: str = "") -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.status = status
        self.name = name
        self.message = message
        self.endpoint = endpoint

    @classmethod
    def of(cls, status: int, head: object) -> "BackendError":
        """From a completion's status and its decoded head."""
        fields = head if isinstance(head, dict) else {}
        name = fields.get("error") or _NAMES.get(status, f"Status{status}")
        return cls(status, str(name), str(fields.get("message") or ""), str(fields.get("endpoint") or ""))
