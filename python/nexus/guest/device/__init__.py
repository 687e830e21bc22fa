"""The guest's device: one arena shared with the backend. See docs/abi.md."""

import os
import threading

from .body import ArenaBody
from .channel import Channel
from .errors import ArenaFullError, BackendError, DeviceUnavailableError
from .reply import Reply, call, exchange, settled
from .sections import guard, waiting
from .selection import Selection
from .transport import DeviceTransport, EventfdTransport, Transport, open_transport

__all__ = [
    "ArenaBody",
    "ArenaFullError",
    "BackendError",
    "Channel",
    "DeviceTransport",
    "DeviceUnavailableError",
    "EventfdTransport",
    "Reply",
    "Selection",
    "Transport",
    "call",
    "exchange",
    "guard",
    "open_channel",
    "open_transport",
    "settled",
    "waiting",
]

_lock = threading.Lock()
_channel: Channel | None = None


def open_channel() -> Channel:
    """This process's channel, opened at the first call. Raises DeviceUnavailableError outside an instance."""
    global _channel
    with _lock:
        if _channel is None:
            _channel = Channel(open_transport())
            os.register_at_fork(after_in_child=_channel.disown)
        return _channel
