"""A submission on its way, and what came of it."""

import threading
from typing import Any

from .pages import Buffer
from .ring import Completion

# A request's head: as it is, or an object of the native module which also reads the answer.
Head = Any
# Status, flags, head, body where it has been copied out, its offset and length, stream, length of the whole body.
Taken = tuple[int, int, str, bytes | None, int, int, int, int]


class Ticket:
    """One submission in flight, and then its outcome.

    Its heap is `held` bytes at `offset`, of which the last `room` are for the reply. What goes before them is given back
    when it completes, but for one that its thread waits for anyway: that gives all back at once. A `body` that lies in the
    arena itself stays there as long.
    """

    __slots__ = ("abandoned", "body", "completion", "gate", "held", "offset", "room", "silent", "waited")

    def __init__(self, offset: int, held: int, room: int, waited: bool, body: Buffer, silent: bool) -> None:
        self.body = body
        self.offset = offset
        self.held = held
        self.room = room
        self.waited = waited
        self.completion: Completion | None = None
        self.gate: threading.Lock | None = None
        self.abandoned = False
        # The backend has not been told yet.
        self.silent = silent
