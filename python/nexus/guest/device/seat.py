"""What a channel and its calls both keep account of."""

from typing import TYPE_CHECKING

from .native import native


class PythonSeat:
    """Who waits in the kernel, and the heap that is kept for the next call. Offsets and lengths are in bytes.

    Changed under the channel's lock. The native module's twin is what its calls share with the channel.
    """

    __slots__ = ("held", "last_id", "leader", "mapped", "start")

    def __init__(self) -> None:
        # The thread that leads (ident); 0: none.
        self.leader = 0
        # The number of the last submission.
        self.last_id = 0
        self.start = self.held = self.mapped = 0

    def keep(self, start: int, held: int, mapped: int) -> None:
        """Keep `held` bytes at `start`, where the heap is mapped up to `mapped`."""
        self.start, self.held, self.mapped = start, held, mapped

    def leave(self) -> None:
        """Keep nothing any more."""
        self.held = 0


if TYPE_CHECKING or native is None:  # noqa: SIM108
    Seat = PythonSeat
else:
    Seat = native.Seat
