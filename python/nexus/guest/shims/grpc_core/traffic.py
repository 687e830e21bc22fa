"""What the calls of an instance share: what is on its way to servers, places in the arena's ring, the clock."""

import threading
import time
import weakref
from typing import Protocol

from ... import abi
from ...device import Channel
from ...device.channel import STARVATION_LIMIT
from ...device.ticket import Ticket

# Bytes that are handed over at a time.
PIECE = 1 << 17
# Of the ring's places: for pieces on their way, whose servers may not read before they are read; and beyond those that
# wait for a server's answer, so that other clients find one.
_PIECES = abi.RING_ENTRIES // 2
_OTHERS = abi.RING_ENTRIES // 4
# How often who waits for a place looks (seconds).
_PACE = 0.005
# How long a call whose stream goes on counts as one that waits before it has asked for more: the thread that does so may itself wait
# for whoever begins a call.
_ASKS_WITHIN = 0.2


class Timed(Protocol):
    """A call with a deadline."""

    deadline: float | None

    def expire(self) -> None:
        """The deadline has passed."""


class Traffic:
    """The calls of an instance. Any thread may call."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._condition = threading.Condition()
        self._sent: list[Ticket] = []
        # And since when those are known to have come whose calls go on; 0: they have not.
        self._waiting: dict[Ticket, float] = {}
        self._timed: weakref.WeakSet[Timed] = weakref.WeakSet()
        self._clock: threading.Thread | None = None
        self._most = max(1, min(_PIECES, channel.room_limit // PIECE))

    # -- what is sent -------------------------------------------------------------------------------------------

    def may_send(self) -> bool:
        """Whether another piece may be on its way beside those of other calls."""
        with self._condition:
            if len(self._sent) >= self._most:
                self._sent = [ticket for ticket in self._sent if ticket.completion is None]
            return len(self._sent) < self._most

    def sends(self, ticket: Ticket) -> None:
        """A piece is on its way."""
        with self._condition:
            self._sent.append(ticket)

    # -- who waits ----------------------------------------------------------------------------------------------

    def enter(self, deadline: float | None) -> bool:
        """Wait until another call may begin. False where the deadline, or a long time, passes without."""
        limit = time.time() + STARVATION_LIMIT
        if deadline is not None:
            limit = min(limit, deadline)
        while self._count() >= abi.RING_ENTRIES - _OTHERS:
            # By itself, since the thread that takes completions may wait for whoever is here.
            with self._channel.lock:
                self._channel.drain()
            if self._count() >= abi.RING_ENTRIES - _OTHERS:
                if time.time() >= limit:
                    return False
                time.sleep(_PACE)
        return True

    def waits(self, ticket: Ticket) -> None:
        """A call waits for its server by this."""
        with self._condition:
            self._waiting[ticket] = 0.0

    def passed(self, ticket: Ticket) -> None:
        """What came of it is known to its call, which waits by another now, or not at all."""
        with self._condition:
            self._waiting.pop(ticket, None)

    def _count(self) -> int:
        """Calls that wait, or are about to."""
        now = time.monotonic()
        with self._condition:
            for ticket, since in list(self._waiting.items()):
                if ticket.completion is None:
                    continue
                if not ticket.completion.flags & abi.MORE or (since and now - since > _ASKS_WITHIN):
                    del self._waiting[ticket]
                elif not since:
                    self._waiting[ticket] = now
            return len(self._waiting)

    # -- the clock ----------------------------------------------------------------------------------------------

    def time(self, call: Timed) -> None:
        """Have `call` expire at its deadline. For one that asks the host for nothing meanwhile, which would see to it."""
        with self._condition:
            self._timed.add(call)
            if self._clock is not None:
                self._condition.notify_all()
                return
            self._clock = threading.Thread(target=self._watch_the_clock, name="grpc-deadlines", daemon=True)
            try:
                self._clock.start()
            except RuntimeError:  # no more threads: the deadline shows when the call is read
                self._clock = None

    def _watch_the_clock(self) -> None:
        while True:
            with self._condition:
                # No call is held by what waits for its deadline.
                nearest = min((call.deadline or 0.0 for call in self._timed), default=None)
                if nearest is None:
                    self._clock = None
                    return
                self._condition.wait(min(max(nearest - time.time(), 0.0), threading.TIMEOUT_MAX))
                expired = [call for call in self._timed if (call.deadline or 0.0) <= time.time()]
                self._timed.difference_update(expired)
            while expired:
                expired.pop().expire()
