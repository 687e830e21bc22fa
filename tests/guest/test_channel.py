"""Channel and streams against the stand-in backend, in this process."""

import gc
import json
import os
import signal
import threading
import time
import tracemalloc

import pytest
from fake_backend import FakeBackend, Stream, _Bytes
from nexus.guest import abi
from nexus.guest.device import ArenaBody, BackendError, Channel, EventfdTransport, Reply, call
from nexus.guest.device.channel import COPIED
from nexus.guest.device.rehearsal import RehearsalTransport

ECHO = 99


class EchoBackend(FakeBackend):
    """Operation 99: the reply's body is `{"size": N}` bytes of a pattern, after `{"delay": S}`."""

    def _dispatch(self, entry, operation, flags, head, body, stream):
        if operation == ECHO:
            time.sleep(head.get("delay", 0))
            if head.get("breaks"):
                self._answer(entry, {"n": 1}, Stream(Breaking(head["size"]), head["size"] * 2))
                return
            data = pattern(head["size"])
            self._answer(entry, {"n": head["size"]}, Stream(_Bytes(data), len(data)))
        else:
            super()._dispatch(entry, operation, flags, head, body, stream)


class Breaking:
    def __init__(self, size):
        self.left = size

    def read(self, count):
        if not self.left:
            from fake_backend import Failure

            raise Failure(abi.STATUS_TRANSPORT, "IncompleteReadError", "broke")
        count = min(count, self.left)
        self.left -= count
        return bytes(count)


def pattern(size):
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


@pytest.fixture(params=["native", "python"])
def channel(request):
    backend = EchoBackend("http://127.0.0.1:1", ("a", "b"), abi.MIN_SIZE)
    channel = Channel(EventfdTransport(os.dup(backend.arena_fd), os.dup(backend.doorbell), os.dup(backend.completion)))
    channel.backend = backend
    assert channel._line is not None
    if request.param == "python":
        channel._line = None
    yield channel
    backend.close()


def ask(channel, size, room=1 << 16, **head):
    reply = call(channel, ECHO, json.dumps({"size": size, **head}).encode(), room_min=1 << 12, room_max=room)
    return ArenaBody(channel, reply)


def whole(channel):
    channel.submit(ECHO, b'{"size": 0}', room_max=64)
    gc.collect()
    return channel.heap_free


@pytest.mark.parametrize("size", [0, 1, 63, 64, 5000, 65_000, 3_000_000])
def test_body_of_any_size_arrives(channel, size):
    free = channel.heap_free
    body = ask(channel, size)
    assert body.total_length == size
    assert body.read() == pattern(size)
    assert body.read() == b""
    assert body.tell() == size
    assert channel.heap_free == free


def test_reads_of_every_shape(channel):
    expected = pattern(300_000)
    body = ask(channel, len(expected), room=20_000)
    got = body.read(10) + body.read(0) + body.read(100_000)
    buffer = bytearray(50_000)
    count = body.readinto(buffer)
    assert 0 < count <= 50_000
    got += bytes(buffer[:count]) + b"".join(body.stream(7_000))
    assert got == expected


def test_closing_midway_gives_heap_and_stream_back(channel):
    free = channel.heap_free
    body = ask(channel, 1_000_000, room=20_000)
    body.read(100)
    body.close()
    assert body.read() == b""
    call(channel, ECHO, b'{"size": 0}', room_max=64)
    assert channel.heap_free == free
    assert not channel.backend.streams


def test_a_dropped_body_is_given_back(channel):
    free = channel.heap_free
    body = ask(channel, 1_000_000, room=20_000)
    del body
    gc.collect()
    call(channel, ECHO, b'{"size": 0}', room_max=64)
    call(channel, ECHO, b'{"size": 0}', room_max=64)
    assert channel.heap_free == free
    assert not channel.backend.streams


def test_getbuffer_is_a_view_that_outlives_its_stream(channel):
    free = channel.heap_free
    view = ask(channel, 40_000).getbuffer()
    assert view.readonly
    for _ in range(5):
        ask(channel, 60_000).read()
    assert bytes(view) == pattern(40_000)
    part = view[100:200]
    del view
    gc.collect()
    assert bytes(part) == pattern(200)[100:]
    del part
    gc.collect()
    call(channel, ECHO, b'{"size": 0}', room_max=64)
    call(channel, ECHO, b'{"size": 0}', room_max=64)
    assert channel.heap_free == free


def test_a_large_use_of_the_heap_is_given_back(channel):
    def resident():
        return os.fstat(channel.backend.arena_fd).st_blocks * 512

    view = ask(channel, 700_000, room=1 << 20).getbuffer()
    body = ask(channel, 900_000, room=1 << 20)
    assert resident() > 1_500_000
    channel.shrink()
    assert bytes(view) == pattern(700_000)
    assert body.read() == pattern(900_000)
    del view, body
    gc.collect()
    call(channel, ECHO, b'{"size": 900000}', room_max=1 << 20).release()
    ask(channel, 900_000, room=1 << 20).read()
    channel.pages.touched = abi.MIN_SIZE
    channel.shrink()
    assert resident() < 1_300_000
    assert ask(channel, 900_000, room=1 << 20).read() == pattern(900_000)


def test_a_hypervisor_is_told_what_the_heap_holds(monkeypatch):
    """It gives back what lies behind that, while the guest rests."""
    threads = 2  # a guest's: the test's own process may have others
    monkeypatch.setattr(threading, "active_count", lambda: threads)
    size = 300_000
    transport = RehearsalTransport(lambda operation, head: (0, b"{}", pattern(size)), abi.MIN_SIZE)
    transport.clones = True
    channel = Channel(transport)
    rings = channel._rings
    assert rings.held_until == 0
    held = ArenaBody(channel, call(channel, ECHO, b"{}", room_max=1 << 19))
    told = rings.held_until
    assert told >= abi.HEAP + (1 << 19)
    # It only rises while an event is handled.
    call(channel, ECHO, b"{}", room_max=1 << 19).release()
    most = rings.held_until
    assert most > told + (1 << 18)
    # With other threads, which may be using it, too.
    channel.shrink()
    assert rings.held_until == most
    threads = 1
    channel.shrink()
    told = rings.held_until
    assert abi.HEAP + size < told < abi.HEAP + size + 4096
    channel.woken()
    assert rings.held_until == told
    # The hypervisor has done it: heap behind that is new to the guest.
    channel.pages.view(abi.HEAP, told + (1 << 19))
    rings.held_until = 0
    channel.woken()
    assert rings.held_until == channel.pages.mapped == told
    assert held.read() == pattern(size)
    channel.shrink()
    assert rings.held_until == abi.HEAP


def test_heap_is_kept_for_the_next_event_and_told_as_free_meanwhile(monkeypatch):
    """What a call has left serves NEXT, and the first call of its event. A hypervisor may take all but NEXT's own meanwhile."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    seen = []

    def answer(operation, head):
        if operation == abi.NEXT:
            told = rings.held_until
            seen.append((told, channel.seat.held))
            if rests:  # as the hypervisor does
                rings.held_until = 0
                channel.arena[told:] = bytes(len(channel.arena) - told)
            return 0, b"{}", b"event"
        return 0, b"{}", pattern(50_000)

    transport = RehearsalTransport(answer, abi.MIN_SIZE)
    transport.clones = True
    channel = Channel(transport)
    rings, seat = channel._rings, channel.seat
    assert call(channel, ECHO, b"{}", bytes(60_000), room_max=1 << 18).data == pattern(50_000)
    place, most, mapped = (seat.start, seat.held), rings.held_until, channel.pages.mapped
    assert most == sum(place)
    assert mapped > abi.HEAP + 110_000
    for rests in (False, True, False):
        channel.shrink()
        assert rings.held_until == abi.HEAP
        ticket, identity = channel.begin(abi.NEXT, b"{}", b"result", 1 << 14, 1 << 16, abi.NEXT_RESULT)
        taken = channel.finish(ticket, identity, b"")
        assert (taken[2], taken[3]) == ("{}", b"event")
        channel.woken()
        assert seen.pop() == (abi.HEAP + 128 + (1 << 16), 0)
        assert (seat.start, seat.held) == place
        assert rings.held_until == most
        assert channel.pages.mapped == (abi.HEAP + 128 + (1 << 16) if rests else mapped)
        # It touches what was given back, and tells so.
        assert call(channel, ECHO, b"{}", bytes(60_000), room_max=1 << 18).data == pattern(50_000)
        assert (seat.start, seat.held) == place
        mapped = channel.pages.mapped


def test_a_call_between_two_events_tells_what_it_takes(monkeypatch):
    """A finalizer's, say: while it waits, nothing of its heap may be given back."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    transport = RehearsalTransport(lambda operation, head: (seen.append(rings.held_until) or 0, b"{}", b"x"), abi.MIN_SIZE)
    transport.clones = True
    channel = Channel(transport)
    rings, seen = channel._rings, []
    for room in (1 << 18, 1 << 16, 1 << 18, 1 << 19):
        call(channel, ECHO, b"{}", room_max=room)
        channel.shrink()
        assert rings.held_until == abi.HEAP
        call(channel, ECHO, b"{}", room_max=room)
        assert seen[-1] >= abi.HEAP + room
        assert rings.held_until >= channel.seat.start + channel.seat.held


def test_a_reply_that_memory_does_not_suffice_for_leaves_the_heap(channel):
    free = channel.heap_free

    def copy(start, end):
        raise MemoryError

    class Line:
        def __getattr__(self, name):
            return getattr(line, name)

        def take(self, *arguments):
            raise MemoryError

    line = channel._line
    channel.pages.copy = copy
    channel._line = line and Line()
    with pytest.raises(MemoryError):
        ask(channel, 1000)
    del channel.pages.copy
    channel._line = line
    assert ask(channel, 1000).read() == pattern(1000)
    assert channel.heap_free == free


class Copying(EventfdTransport):
    """The kernel copies, or only begins to."""

    copies = 0
    partly = False

    def read(self, offset, length):
        self.copies += 1
        return self.arena[offset : offset + (length // 2 if self.partly else length)]

    def write(self, offset, data):
        self.copies += 1
        data = memoryview(data)[: len(data) // 2] if self.partly else data
        self.arena[offset : offset + len(data)] = data
        return len(data)


def test_what_lies_below_a_mapped_part_is_not_taken_for_mapped(channel):
    backend = channel.backend
    transport = Copying(os.dup(backend.arena_fd), os.dup(backend.doorbell), os.dup(backend.completion))
    channel = Channel(transport)
    below = ask(channel, 300_000, room=1 << 19)
    above = ask(channel, 100_000, room=1 << 18)
    assert above.read(10) == pattern(10)
    assert transport.copies == 0
    assert below.read() == pattern(300_000)
    assert transport.copies == 1
    assert above.read() == pattern(100_000)[10:]


@pytest.mark.parametrize("partly", [False, True])
def test_large_bodies_are_copied_by_the_kernel_before_the_heap_is_mapped(channel, partly):
    backend = channel.backend
    transport = Copying(os.dup(backend.arena_fd), os.dup(backend.doorbell), os.dup(backend.completion))
    transport.partly = partly
    channel = Channel(transport)
    for number in range(40):
        assert ask(channel, 100_000, room=1 << 18).read() == pattern(100_000)
        if number == 0:
            # What was begun and not ended is done by the guest itself, which maps the heap for that.
            assert transport.copies == 1
    assert transport.copies == (1 if partly else 16)
    head, body = b'{"size": 3}', memoryview(pattern(300_000))
    for offset in (0, 1000):
        call(channel, ECHO, head, body[offset:], room_max=1 << 10).release()
        start = channel.arena.find(bytes(body[offset : offset + 100]))
        assert channel.arena[start : start + 300_000 - offset] == body[offset:]
    # Small ones never are.
    before = transport.copies
    assert ask(channel, 60_000).read() == pattern(60_000)
    assert transport.copies == before


def test_unread_bodies_never_starve_others(channel):
    bodies = [ask(channel, 400_000, room=1 << 19) for _ in range(20)]  # 8 MB through a heap of 2 MiB
    assert all(body.read() == pattern(400_000) for body in bodies)


def test_error_carries_status_name_and_message(channel):
    with pytest.raises(BackendError, match="operation 77") as caught:
        call(channel, 77, b"{}", room_max=4096)
    assert (caught.value.status, caught.value.name) == (abi.STATUS_INVALID, "InvalidSubmission")


def test_body_that_breaks_midway(channel):
    body = ask(channel, 100_000, room=20_000, breaks=True)
    with pytest.raises(BackendError) as caught:
        body.read()
    assert caught.value.name == "IncompleteReadError"


def test_what_a_broken_body_gave_is_handed_on(channel):
    handed = []

    def translate(error, partial, missing):
        handed.append((len(partial), missing))
        return OSError(str(error))

    size = 3 << 20
    reply = call(channel, ECHO, json.dumps({"size": size, "breaks": True}).encode(), room_min=1 << 12, room_max=1 << 16)
    with pytest.raises(OSError, match="broke"):
        ArenaBody(channel, reply, translate).read()
    (count, missing), total = handed[0], 2 * size
    assert 0 < count <= size
    assert count + missing == total


def test_a_whole_body_is_held_once(channel):
    size = 8 << 20
    body = ask(channel, size)
    start = body.read(1000)
    tracemalloc.start()
    try:
        rest = body.read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert start + rest == pattern(size)
    assert peak < size * 1.25


def test_a_small_copy_that_memory_does_not_suffice_for_leaves_the_heap(channel):
    free = channel.heap_free

    def copy(start, end):
        raise MemoryError

    channel.pages.copy = copy
    with pytest.raises(MemoryError):
        ask(channel, COPIED, room=1 << 17)  # not mapped yet, so not copied natively
    del channel.pages.copy
    assert channel.heap_free == free


def test_who_waits_for_heap_leads_in_its_own_name(channel):
    """Who led before may call again meanwhile, and follows: two who wait in the kernel would take each other's wake."""
    ask(channel, 1).read()  # this thread has led
    waiting, seen = threading.Event(), []

    class Watched(EventfdTransport):
        def wait(self, timeout_ms):
            if timeout_ms == 1000:
                seen.append(channel.seat.leader)
                waiting.set()
            return super().wait(timeout_ms)

    backend = channel.backend
    channel._transport = Watched(os.dup(backend.arena_fd), os.dup(backend.doorbell), os.dup(backend.completion))
    _, slow = channel.submit(ECHO, b'{"size": 5, "delay": 1}', room_max=1 << 12)
    size = channel._heap.free_bytes
    everything, _ = channel._heap.allocate(size)
    other = threading.Thread(target=lambda: ask(channel, 9) and seen.append("done"), daemon=True)
    other.start()
    assert waiting.wait(5)
    assert seen[0] == other.ident
    assert channel.wait(slow).status == 0
    channel.release(everything, size)
    other.join(10)
    assert seen[-1] == "done"


def test_a_signal_handler_may_call_while_its_thread_waits(channel):
    """As with real SDKs, which take another connection. Other threads' calls go on meanwhile."""
    seen = []
    others = [threading.Thread(target=lambda: seen.append(ask(channel, 7, delay=0.6).read()), daemon=True) for _ in range(2)]

    def handler(number, frame):
        if not others[0].is_alive() and not seen:
            for thread in others:
                thread.start()
        seen.append(ask(channel, 3, delay=0.05).read())

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        assert ask(channel, 5, delay=1).read() == pattern(5)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for thread in others:
            thread.join(10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen.count(pattern(7)) == 2
    assert seen.count(pattern(3)) >= 3
    assert not channel._tickets
    assert ask(channel, 9).read() == pattern(9)


@pytest.mark.parametrize("leads", [True, False])
def test_what_a_signal_handler_ends_the_wait_for_is_waited_for_again(channel, leads):
    """Whether that waits in the kernel, or follows a thread that does."""

    class Alarm(Exception):
        pass

    def handler(number, frame):
        raise Alarm

    other = threading.Thread(target=lambda: ask(channel, 3, delay=1).read(), daemon=True)
    if not leads:
        other.start()
        time.sleep(0.1)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        head = json.dumps({"size": 5, "delay": 0.5}).encode()
        _, ticket = channel.submit(ECHO, head, room_min=1 << 12, room_max=1 << 16)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Alarm):
            channel.settle(ticket)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ask(channel, 9).read() == pattern(9)
    channel.settle(ticket)
    assert bytes(Reply(channel, ticket).body) == pattern(5)
    if not leads:
        other.join(10)
    assert not channel._tickets
    assert not channel.seat.leader


def test_fifty_threads_share_the_wait(channel):
    failures = []

    def work(number):
        try:
            for turn in range(6):
                size = (number * 7919 + turn * 104729) % 150_000
                assert ask(channel, size, delay=0.001 * (number % 3)).read() == pattern(size)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)
    assert channel.backend.most_in_flight <= abi.RING_ENTRIES
    call(channel, ECHO, b'{"size": 0}', room_max=64)
    assert channel.heap_free == abi.MIN_SIZE - abi.HEAP


def test_a_hundred_threads_stay_below_the_ring(channel):
    results = []

    def work():
        results.append(ask(channel, 10, delay=0.3).read())

    threads = [threading.Thread(target=work) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [pattern(10)] * 100
    assert channel.backend.most_in_flight <= abi.RING_ENTRIES


def test_one_doorbell_per_submission_and_no_wait_for_what_is_there():
    rings, waits = [], []

    class Counting(RehearsalTransport):
        def ring(self):
            rings.append(1)
            super().ring()

        def wait(self, timeout_ms):
            waits.append(1)
            return True

    channel = Channel(Counting(lambda operation, head: (0, b"{}", b"body")))
    for _ in range(10):
        reply = call(channel, ECHO, b"{}", room_max=4096)
        assert bytes(reply.body) == b"body"
        reply.release()
    assert len(rings) == 10
    assert not waits


def test_a_caller_that_waits_tells_the_backend_by_its_wait():
    told = []

    class Counting(RehearsalTransport):
        def ring(self):
            told.append("ring")
            super().ring()
            with channel.lock:  # as the leader does
                channel.drain()

        def ring_and_wait(self):
            told.append("ring and wait")
            super().ring()

    channel = Channel(Counting(lambda operation, head: (0, b"{}", b"body")))
    call(channel, ECHO, b"{}", room_max=4096).release()
    assert told == ["ring and wait"]
    # Nor is it forgotten where another has the lead.
    with channel.lock:
        assert channel.take_lead()
        channel.seat.leader = -1
    call(channel, ECHO, b"{}", room_max=4096)
    assert told == ["ring and wait", "ring"]


def test_a_call_that_is_interrupted_before_its_wait_is_told_all_the_same():
    told = []

    class Interrupted(RehearsalTransport):
        def ring(self):
            told.append("ring")

        def ring_and_wait(self):
            raise AssertionError("it was interrupted before")

    channel = Channel(Interrupted(lambda operation, head: (0, b"{}", b"body")))
    _, ticket = channel.submit(ECHO, b"{}", room_max=4096, silent=True)

    def interrupt(ticket, *, nested):
        raise KeyboardInterrupt

    channel._lead = interrupt
    with pytest.raises(KeyboardInterrupt):
        channel.wait(ticket)
    assert told == ["ring"]


def test_indices_wrap_around():
    transport = RehearsalTransport(lambda operation, head: (0, b"", b"x"))
    control = memoryview(transport.arena)[:4096].cast("I")
    start = 2**32 - 3
    for offset in (abi.CONTROL_SUBMIT_TAIL, abi.CONTROL_COMPLETE_TAIL, abi.CONTROL_COMPLETE_HEAD):
        control[offset // 4] = start
    transport._taken = start
    channel = Channel(transport)
    for _ in range(10):
        call(channel, ECHO, b"", room_max=64).release()
    assert control[abi.CONTROL_SUBMIT_TAIL // 4] == 7


def test_another_version_is_refused():
    transport = RehearsalTransport(lambda operation, head: (0, b"", b""))
    transport.arena[abi.CONTROL_VERSION] = 9
    with pytest.raises(OSError, match="version 9.*speaks version 1"):
        Channel(transport)
