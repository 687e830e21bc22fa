"""Operations over the arena: submit, wait, complete; any number of guest threads.

One thread at a time waits in the kernel, as *leader*. It hands completions to their owners and, once it has its
own, the lead to another. A submission costs one doorbell, a wait that finds its completion costs nothing more.
"""

import errno
import threading
import time
import weakref
from collections import deque
from typing import Any, Protocol

from .. import abi
from . import loans
from .errors import ArenaFullError, DeviceUnavailableError
from .heap import ALIGNMENT, Heap, aligned
from .mutex import Barred, Mutex
from .native import native
from .pages import MAPPED_FROM, Buffer, Pages
from .ring import Completion, Rings
from .seat import Seat
from .sections import guard, waiting
from .ticket import Head, Taken, Ticket
from .transport import Transport

# A thread that waits for heap or for a place in the ring gives up after this long without any progress (seconds).
STARVATION_LIMIT = 120.0
# What is in flight when the snapshot is to be taken is waited for (seconds).
DRAIN_LIMIT = 10.0
# Heap that an idle instance keeps the memory of (bytes): giving it back costs an exit and faults.
KEPT = 1 << 20
# A whole body of up to this many bytes leaves the arena at once: less work than keeping account of it there.
COPIED = 1 << 16
# What the request of a call takes at most, of which there is one at a time (bytes).
_USUAL = COPIED + (1 << 14)
_ROUND = ALIGNMENT - 1
# Requests whose body follows in parts hold one place while each part needs another: keep enough of them free.
MAX_STREAMED = 16


class Holder(Protocol):
    """Something that sits on heap and could move its content elsewhere."""

    def reclaim(self) -> tuple[int, int] | None:
        """Called when heap is short: the range that the holder needs no more, or None."""


def _not_here() -> DeviceUnavailableError:
    return DeviceUnavailableError(
        errno.ENODEV, "a process made by fork has no arena of its own: make SDK calls in the process that runs the handler"
    )


class Channel:
    """The guest's end of one arena."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.arena = transport.arena
        self.pages = Pages(transport)
        self._rings = Rings(transport.arena)
        self._heap = Heap(abi.HEAP, len(transport.arena))
        self._lock: Mutex = Mutex()
        self._lock.keep_quiet(guard)
        self._tickets: dict[int, Ticket] = {}
        self._followers: dict[Ticket, None] = {}
        self._starving: dict[threading.Lock, None] = {}
        self._holders: dict[int, weakref.ref[Holder]] = {}
        self._discarded: deque[tuple[int, int, int]] = deque()
        self.seat = Seat()
        # Of instances: another number after each restore, since nothing of before is known to the backend then.
        self.restores = 0
        # Up to where the heap may hold something, which a hypervisor is told.
        self._held_until = abi.HEAP
        self._line = native and native.Line(transport.arena)
        # An object in the arena would not be in a snapshot, and change under a process made by fork.
        self._loans = loans.of(transport.arena) if transport.clones else None
        self._lends = False
        # What does a whole call, for those that have a native head.
        self.calls = self._line and native.Alone(
            {
                "line": self._line,
                "seat": self.seat,
                "lock": self._lock,
                "tickets": self._tickets,
                "followers": self._followers,
                "discarded": self._discarded,
                "guard": guard,
                "ticket": Ticket,
                "wait": transport.ring_and_wait,
                "device": transport.device,
                "channel": weakref.ref(self),
                "copied": (COPIED, MAPPED_FROM - 1),
            }
        )
        self._streamed = threading.BoundedSemaphore(MAX_STREAMED)
        # Room that one reply asks for at most, so that a few large ones do not take the whole heap.
        self.room_limit = max((len(transport.arena) - abi.HEAP) // 4, 1 << 16)

    # -- memory ------------------------------------------------------------------------------------------------

    @property
    def heap_free(self) -> int:
        """Bytes of the heap that nothing holds."""
        return self._heap.free_bytes + self.seat.held

    def share(self, wanted: int, least: int) -> int:
        """Room to ask for at most, for a body that may stay unread: a quarter of what is free, between `least` and `wanted`.

        So each further unread body gets less, and any number of them holds little.
        """
        return max(least, min(wanted, self._heap.free_bytes // 4, self.room_limit))

    def release(self, offset: int, length: int) -> None:
        """Give heap back; wakes threads that wait for some."""
        with self._lock:
            self._heap.release(offset, length)
            if self._starving:
                self._wake_starving()

    def trim(self, start: int, end: int, kept: int, kept_end: int) -> None:
        """Give back what a reply does not need: all of `start` to `end` but `kept` to `kept_end`."""
        with self._lock:
            self._heap.release(start, kept - start)
            self._heap.release(kept_end, end - kept_end)
            if self._starving:
                self._wake_starving()

    def shrink(self) -> None:
        """Between two events: let the memory behind the heap's free pages go, or let it be given back once the guest rests.

        A hypervisor does that. Elsewhere, and where other threads may never rest, what is more than KEPT bytes goes at once.
        """
        if self._loans:
            with self._lock:
                self._take_back()
        if self._transport.clones and threading.active_count() == 1:
            with self._lock:
                seat, until = self.seat, self._heap.held_until
                if seat.held:
                    # A call on what is kept tells first what it takes.
                    seat.keep(seat.start, seat.held, 0)
                    if seat.start + seat.held == until:
                        until = seat.start
                self._rings.held_until = self._held_until = until
            return
        if self.pages.touched <= abi.HEAP + KEPT:
            return
        with self._lock:
            self._end_lease()
            self.pages.remove(self._heap.free_ranges(), abi.HEAP + KEPT)

    def lend(self) -> None:
        """From now on: no snapshot will be taken of this process, so large bodies may stay where they lie."""
        self._lends = self._loans is not None

    def lent(self, body: Buffer) -> int:
        """Where in the arena a body lies that was lent; 0 for any other."""
        return self._loans.offset(body) if self._loans else 0

    def take(self, start: int, end: int, body: int, length: int) -> bytes | None:
        """A reply's whole body, lent, where that is less work than a copy; the rest of `start` to `end` is given back then."""
        if not self._lends or self._loans is None:
            return None
        with self._lock:
            return self._lend(self._loans, start, end, body, length)

    def _lend(self, lender: loans.Loans, start: int, end: int, body: int, length: int) -> bytes | None:
        data = lender.lend(self._heap, start, end, body, length)
        if data is not None and self._starving:
            self._wake_starving()
        return data

    def _take_back(self) -> None:
        if self._loans:
            self._loans.take_back(self._heap)

    def woken(self) -> None:
        """Behind what may have been a rest: see whether the memory of the heap's free end was given back."""
        if self._rings.held_until:
            return
        with self._lock:
            self._awake(self._held_until)

    def _awake(self, until: int) -> None:
        """Behind what may have been a rest: the heap is held up to `until`, or beyond. Under the lock."""
        if not self._rings.held_until:
            self.pages.given_back(self._held_until)
        self._rings.held_until = self._held_until = max(self._held_until, until)

    def hold(self, holder: Holder) -> None:
        """Remember, weakly, that `holder` sits on heap which it could give back."""
        with self._lock:
            self._holders[id(holder)] = weakref.ref(holder)

    def let_go(self, holder: Holder) -> None:
        """Forget what `hold` remembered."""
        self._holders.pop(id(holder), None)

    def discard(self, offset: int, length: int, stream: int) -> None:
        """Give heap back and close a stream, later. For finalizers, which may run while this thread holds the lock."""
        self._discarded.append((offset, length, stream))

    def disown(self) -> None:
        """In a process that fork made: the arena is its parent's."""
        self._lock.abandon()
        self._lock = Barred(_not_here)
        if self.calls:
            self.calls.bar()

    # -- operations --------------------------------------------------------------------------------------------

    def submit(
        self,
        operation: int,
        head: bytes = b"",
        body: Buffer = b"",
        *,
        room_min: int = 0,
        room_max: int = 0,
        flags: int = 0,
        stream: int = 0,
        timeout_ms: int = 0,
        silent: bool = False,
    ) -> tuple[int, Ticket]:
        """Put a request into the heap and the ring; returns its id and ticket.

        `silent`: the caller waits for it next, and the backend is told then.
        `body` must be contiguous bytes. Blocks while 64 are in flight or the heap is full; raises ArenaFullError
        where neither can change, TimeoutError where neither does within `timeout_ms` (0: no limit).
        """
        if self._discarded:
            self._clear_discarded()
        head_length = len(head)
        body_start = (head_length + _ROUND) & -ALIGNMENT
        body_length = body.nbytes if isinstance(body, memoryview) else len(body)
        lent = self._loans.offset(body) if self._loans else 0
        fixed = body_start + (0 if lent else (body_length + _ROUND) & -ALIGNMENT)
        # One section: the lock is given up, and taken again, where there is no place.
        with guard:
            with self._lock:
                if self.seat.held:
                    self._end_lease()
                if self._loans:
                    self._loans.take_back(self._heap)
                place = None
                if len(self._tickets) < abi.RING_ENTRIES:
                    place = self._heap.allocate(fixed, room_min, room_max)
                if place is None:
                    place = self._allocate_slowly(fixed, room_min, room_max, timeout_ms)
                offset, room = place
                end = offset + fixed + room
                self._tell(end)
                arena = self.arena
                body_offset = lent or offset + body_start
                pages = self.pages
                pages.touched = max(pages.touched, offset + fixed)
                arena[offset : offset + head_length] = head
                if body_length and not lent:
                    pages.put(body_offset, body, body_length)
                self.seat.last_id = identity = self.seat.last_id + 1
                ticket = self._tickets[identity] = Ticket(offset, fixed + room, room, silent, body if lent else b"", silent)
                self._rings.submit(
                    identity,
                    operation,
                    flags,
                    offset if head_length else 0,
                    head_length,
                    body_offset if body_length else 0,
                    body_length,
                    offset + fixed if room else 0,
                    room,
                    timeout_ms,
                    stream,
                )
            if not silent:
                self._transport.ring()
        return identity, ticket

    def wait(self, ticket: Ticket) -> Completion:
        """Block until `ticket` completes. The caller owns the heap that it holds then.

        An exception from a signal handler leaves the submission in flight, and its heap is freed when it completes.
        """
        with guard:
            try:
                self._block(ticket)
            except BaseException:
                if ticket.silent:
                    self._transport.ring()
                self._abandon(ticket)
                raise
        completion = ticket.completion
        if completion is None:
            raise DeviceUnavailableError("a wait for the backend ended without a completion")
        return completion

    def settle(self, ticket: Ticket) -> None:
        """Block until `ticket` completes, and leave it to be waited for again where a signal's handler raises."""
        with guard:
            self._settle(ticket)

    def _settle(self, ticket: Ticket) -> None:
        try:
            self._block(ticket)
        except BaseException:
            with self._lock:  # nobody waits for it now, who could be given the lead
                self._followers.pop(ticket, None)
                self.pass_lead()
            raise

    def alone(
        self, operation: int, head: Head, body: Buffer, room_min: int, room_max: int
    ) -> Taken | Ticket | dict[str, Any] | None:
        """One operation, start to end, while nothing else is in flight. None where it has to go the ordinary way.

        Its outcome, or what the head made of an ordinary one; where its body has not been copied out, the caller owns the heap of
        that. Or, where other threads came in between, a ticket to `wait` for.
        """
        with guard:
            begun = self.begin(operation, head, body, room_min, room_max)
            return begun and self.finish(*begun, head)

    def begin(
        self, operation: int, head: Head, body: Buffer, room_min: int, room_max: int, flags: int = 0
    ) -> tuple[Ticket, int] | None:
        """Submit it, and take the lead: for `finish`, which has to follow at once. None as `alone`; nothing was done then."""
        line, lock, seat = self._line, self._lock, self.seat
        if line is None or self._tickets or self._discarded or not lock.try_acquire():
            return None
        try:
            if self._tickets or seat.leader:
                return None
            own, lent = len(head) + len(body), 0
            if self._loans:
                lent = self._loans.offset(body)
                if lent:
                    own = len(head)
                self._loans.take_back(self._heap)
            start, held = seat.start, seat.held
            if held < room_max:
                self._end_lease()
                place = self._heap.allocate(_USUAL, room_min, room_max)
                if place is None:
                    return None
                start, held = place[0], place[1] + _USUAL
                seat.keep(start, held, 0)
                self._tell(start + held)
            if start + own > self.pages.mapped:
                self.pages.map(start, start + min(own + 2 * ALIGNMENT, held))
            identity = seat.last_id + 1
            fixed = line.submit(identity, operation, start, held, room_min, room_max, head, body, flags)
            if not fixed:
                return None
            self._tell(start + min(fixed + aligned(room_max), held))
            seat.last_id = identity
            seat.leave()
            ticket = self._tickets[identity] = Ticket(start, held, held - fixed, True, body if lent else b"", False)
            seat.leader = threading.get_ident()
        finally:
            lock.release()
        return ticket, identity

    def finish(self, ticket: Ticket, identity: int, head: Head) -> Taken | Ticket | dict[str, Any]:
        """Wait for what `begin` has submitted: what `alone` brings."""
        with guard:
            try:
                with waiting:
                    self._transport.ring_and_wait()
                return self.conclude(ticket, identity, head)
            except BaseException:
                self.give_up(ticket)
                raise

    def _tell(self, until: int) -> None:
        """Have the hypervisor know that the heap is held up to `until`. Under the lock."""
        if until > self._held_until:
            self._rings.held_until = self._held_until = until

    def conclude(self, ticket: Ticket, identity: int, head: Head) -> Taken | Ticket | dict[str, Any]:
        """What `alone` brings, of a submission whose thread has led. Whoever calls it gives up where it raises."""
        seat = self.seat
        start, held = ticket.offset, ticket.held
        room = start + held - ticket.room
        with self._lock:
            if start + held > self._held_until:
                self._awake(start + held)
            # What is larger, and not mapped, the kernel copies with less work.
            small = COPIED if room + COPIED <= self.pages.mapped else MAPPED_FROM - 1
            taken: Taken | None = self._line.take(identity, room, start + held, small)
            if taken is not None:
                del self._tickets[identity]
                taken = self._keep(start, held, taken)
            seat.leader = 0
            if self._followers:
                self._promote()
        if taken is None:
            return ticket
        status, flags, text, data, _, length, _, _ = taken
        if type(head) is not bytes and status >= 0 and not flags & abi.MORE and (data is not None or not length):
            result: dict[str, Any] | None = head.result(text, data)
            if result is not None:
                return result
        return taken

    def give_up(self, ticket: Ticket) -> None:
        """An exception has ended the wait of who led for `ticket`, or what followed it."""
        self._transport.ring()  # it may have come before that was done
        with self._lock:
            if self.seat.leader == threading.get_ident():
                self.end_lead()
        self._abandon(ticket)

    def reached(self, start: int, end: int) -> int:
        """A reply lay between `start` and `end`: up to where the heap is mapped now."""
        pages = self.pages
        pages.touched = max(pages.touched, end)
        if end > pages.mapped:
            pages.map(start, end)
        return pages.mapped

    def _keep(self, start: int, held: int, taken: Taken) -> Taken:
        """Keep the heap of a call that has ended for the next one, or give back what its body leaves. Under the lock."""
        status, flags, head, data, body, length, stream, total = taken
        end = body + length
        if data is not None or not length:
            self.seat.keep(start, held, self.reached(body, end))
            return taken
        self.pages.touched = max(self.pages.touched, end)
        if self._lends and self._loans is not None and length > COPIED and not flags & abi.MORE:
            data = self._lend(self._loans, start, start + held, body, length)
            if data is not None:
                return status, flags, head, data, body, length, stream, total
        end = aligned(end)
        self._heap.release(start, body - start)
        self._heap.release(end, start + held - end)
        if self._starving:
            self._wake_starving()
        return taken

    def _end_lease(self) -> None:
        seat = self.seat
        self._heap.release(seat.start, seat.held)
        seat.leave()

    def post(self, operation: int, *, stream: int = 0, flags: int = 0) -> None:
        """Submit something whose outcome does not matter."""
        _, ticket = self.submit(operation, stream=stream, flags=flags)
        self._abandon(ticket)

    def streaming(self) -> threading.BoundedSemaphore:
        """To be held around a request whose body is sent in parts."""
        return self._streamed

    def abandon(self, ticket: Ticket) -> None:
        """Its outcome does not matter any more."""
        self._abandon(ticket)

    def forget(self, identity: int, ticket: Ticket) -> None:
        """Give up a submission whose body will not be sent to its end."""
        self._abandon(ticket)
        self.post(abi.CLOSE, stream=identity, flags=abi.STREAM_BODY)

    def snapshot(self) -> bool:
        """Take the snapshot here. True in an instance restored from it, which has a fresh arena in the old one's place.

        No view of the arena may be held. What other threads have in flight is waited for, and they wait meanwhile. Raises
        DeviceUnavailableError where that takes too long.
        """
        with guard, self._lock:
            if self._transport.clones:
                self._finish_all()
            if not self._transport.snapshot():
                return False
            self._rings.attach()
            self.restores += 1
            self._heap = Heap(abi.HEAP, len(self.arena))
            self.seat.leave()
            self._held_until = abi.HEAP
            self.pages.forget()
            self._holders.clear()
            self._discarded.clear()
            return True

    def _finish_all(self) -> None:
        """Wait until nothing is in flight. Under the lock, which it gives up to wait."""
        deadline = time.monotonic() + DRAIN_LIMIT
        while True:
            self._drain()
            if not self._tickets:
                return
            if time.monotonic() > deadline:
                raise DeviceUnavailableError(
                    errno.EBUSY,
                    f"no snapshot can be taken: {len(self._tickets)} calls are in flight in other threads, {DRAIN_LIMIT:.0f} s "
                    "after the import ended; wait for them at its end, or make them in the handler",
                )
            self._lock.release()
            try:
                with waiting:
                    time.sleep(0.005)
            finally:
                self._lock.acquire()

    def renewed(self) -> None:
        """Everything random is renewed: let the other threads of a restored instance go on."""
        self._transport.renewed()

    def generation(self) -> int:
        """Restores between this instance and its first initialisation."""
        return self._transport.generation()

    # -- waiting -----------------------------------------------------------------------------------------------

    def _block(self, ticket: Ticket) -> None:
        while True:
            with self._lock:
                self._drain()
                if ticket.completion is not None:
                    self._followers.pop(ticket, None)
                    self.pass_lead()
                    return
                # This thread may be waiting as leader already, and run a signal's handler there.
                nested = self.seat.leader == threading.get_ident()
                lead = nested or not self.seat.leader
                if lead:
                    self.seat.leader = threading.get_ident()
                    self._followers.pop(ticket, None)
                else:
                    if ticket.gate is None:
                        ticket.gate = threading.Lock()
                        ticket.gate.acquire()
                    self._followers[ticket] = None
            if lead:
                self._lead(ticket, nested=nested)
                return
            if ticket.silent:
                ticket.silent = False
                self._transport.ring()
            if ticket.gate is not None:
                with waiting:
                    ticket.gate.acquire()

    def _lead(self, ticket: Ticket, *, nested: bool) -> None:
        try:
            while ticket.completion is None:
                with waiting:
                    if ticket.silent:
                        ticket.silent = False
                        self._transport.ring_and_wait()
                    else:
                        self._transport.wait(-1)
                with self._lock:
                    self._drain()
        finally:
            if not nested:
                with self._lock:
                    self.end_lead()

    def _promote(self) -> None:
        """Wake one follower, which finds that nobody leads. Under the lock."""
        ticket = next(iter(self._followers))
        del self._followers[ticket]
        if ticket.gate is not None and ticket.gate.locked():
            ticket.gate.release()

    def _drain(self) -> None:
        """Hand every completion in the ring to its ticket. Under the lock."""
        while (completion := self._rings.take()) is not None:
            ticket = self._tickets.pop(completion.id, None)
            if ticket is None:
                raise DeviceUnavailableError(f"the backend completed {completion.id}, which is not in flight")
            ticket.completion = completion
            if ticket.abandoned:
                self._heap.release(ticket.offset, ticket.held)
            elif not ticket.waited:
                request = ticket.held - ticket.room
                self._heap.release(ticket.offset, request)
                ticket.offset += request
                ticket.held = ticket.room
            if ticket in self._followers:
                del self._followers[ticket]
                if ticket.gate is not None and ticket.gate.locked():  # several tickets may share one
                    ticket.gate.release()
            if self._starving:
                self._wake_starving()

    def _abandon(self, ticket: Ticket) -> None:
        with self._lock:
            ticket.abandoned = True
            self._followers.pop(ticket, None)
            if ticket.completion is not None:
                self._heap.release(ticket.offset, ticket.held)

    # -- for Selection, which waits for several tickets: all under the lock, but for wait_once ------------------

    @property
    def lock(self) -> Mutex:
        return self._lock

    @property
    def followers(self) -> dict[Ticket, None]:
        return self._followers

    def drain(self) -> None:
        """Hand every completion to its ticket."""
        self._drain()

    def take_lead(self) -> bool:
        """Become the one who waits in the kernel, unless somebody is."""
        if self.seat.leader:
            return False
        self.seat.leader = threading.get_ident()
        return True

    def end_lead(self) -> None:
        """Leave the lead to a follower."""
        self.seat.leader = 0
        self.pass_lead()

    def pass_lead(self) -> None:
        """Wake a follower where nobody leads."""
        if self._followers and not self.seat.leader:
            self._promote()

    def wait_once(self) -> None:
        """As leader: wait in the kernel until there may be completions."""
        with waiting:
            self._transport.wait(-1)

    # -- shortage ----------------------------------------------------------------------------------------------

    def _allocate_slowly(self, fixed: int, room_min: int, room_max: int, timeout_ms: int) -> tuple[int, int]:
        """Wait until there is a place in the ring and in the heap. Under the lock, which it gives up to wait."""
        if fixed + aligned(room_min) > self._heap.end - self._heap.start:
            raise ArenaFullError(f"{fixed} bytes do not fit into an arena of {len(self.arena)} bytes")
        deadline = time.monotonic() + timeout_ms / 1000 if timeout_ms else None
        while True:
            self._drain()
            self._take_back()
            if len(self._tickets) < abi.RING_ENTRIES:
                place = self._heap.allocate(fixed, room_min, room_max)
                if place is not None:
                    return place
                if self._reclaim():
                    continue
                if self._discarded:
                    offset, length, stream = self._discarded.popleft()
                    self._heap.release(offset, length)
                    if stream:  # closed by the next submission
                        self._discarded.append((0, 0, stream))
                    if length:
                        continue
            left = STARVATION_LIMIT
            if deadline is not None:
                left = min(left, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError("timed out")
            gate = threading.Lock()
            gate.acquire()
            self._starving[gate] = None
            nested = self.seat.leader == threading.get_ident()  # as in _block
            lead = bool(self._tickets) and (nested or not self.seat.leader)
            if lead:
                self.seat.leader = threading.get_ident()
            self._lock.release()
            try:
                with waiting:
                    progress = self._transport.wait(min(1000, int(left * 1000) + 1)) if lead else gate.acquire(timeout=left)
            finally:
                self._lock.acquire()
                self._starving.pop(gate, None)
                if lead:
                    self._drain()
                    if not nested:
                        self.end_lead()
            if not progress and not lead and left >= STARVATION_LIMIT:
                raise ArenaFullError(
                    f"no {fixed + room_min} bytes of arena became free within {STARVATION_LIMIT:.0f} s: close "
                    "response bodies and release getbuffer() views, or give the function a larger arena"
                )

    def _reclaim(self) -> bool:
        for key, reference in list(self._holders.items()):
            holder = reference()
            place = holder.reclaim() if holder is not None else None
            if place is not None:
                self._holders.pop(key, None)
                self._heap.release(*place)
                return True
        return False

    def _clear_discarded(self) -> None:
        while self._discarded:
            try:
                offset, length, stream = self._discarded.popleft()
            except IndexError:  # another thread was quicker
                return
            self.release(offset, length)
            if stream:
                self.post(abi.CLOSE, stream=stream)

    def _wake_starving(self) -> None:
        for gate in self._starving:
            if gate.locked():
                gate.release()
        self._starving.clear()
