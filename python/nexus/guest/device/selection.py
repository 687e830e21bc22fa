"""Waiting for whichever of several submissions completes first."""

import threading
from typing import Any

from .. import abi
from .channel import Channel
from .ticket import Ticket


class Selection:
    """Tickets that one thread waits for together; others may add to them meanwhile."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._tickets: dict[Ticket, Any] = {}
        self._gate = threading.Lock()
        self._gate.acquire()
        self._following = False
        self._leading = False
        self._woken = False

    def add(self, ticket: Ticket, owner: object) -> None:
        """Wait for `ticket` too; `owner` comes back with it."""
        with self._channel.lock:
            ticket.gate = self._gate
            self._tickets[ticket] = owner
            if self._following:
                if ticket.completion is None:
                    self._channel.followers[ticket] = None
                    self._channel.pass_lead()  # without a ticket it did not lead, and perhaps nobody does
                else:
                    self._open()
            # It was handed over before it came here, and whoever waits in the kernel has seen that end already.
            missed = self._leading and ticket.completion is not None
        if missed:
            self._channel.post(abi.CLOSE)

    def wake(self) -> None:
        """Let `wait` return without a ticket."""
        with self._channel.lock:
            self._woken = True
            if self._following:
                self._open()
            leading = self._leading
        if leading:  # it waits in the kernel: any completion ends that
            self._channel.post(abi.CLOSE)

    def wait(self) -> tuple[Ticket, Any] | None:
        """The next ticket that has completed, with its owner; None after `wake`."""
        while True:
            with self._channel.lock:
                self._channel.drain()
                self._following = False
                found = next((ticket for ticket in self._tickets if ticket.completion is not None), None)
                if found is not None or self._woken:
                    for ticket in self._tickets:
                        self._channel.followers.pop(ticket, None)
                    self._channel.pass_lead()
                    if found is not None:
                        return found, self._tickets.pop(found)
                    self._woken = False
                    return None
                lead = bool(self._tickets) and self._channel.take_lead()
                self._leading = lead
                self._following = not lead
                for ticket in self._tickets:
                    if lead:
                        self._channel.followers.pop(ticket, None)
                    else:
                        self._channel.followers[ticket] = None
            if not lead:
                self._gate.acquire()
                continue
            try:
                self._channel.wait_once()
            finally:
                with self._channel.lock:
                    self._leading = False
                    self._channel.end_lead()

    def _open(self) -> None:
        if self._gate.locked():
            self._gate.release()
