"""Bodies that are lent: objects of the interpreter's where they lie in the arena."""

import hashlib
import io
import json
import mmap
import os
import subprocess
import sys
import threading
import tracemalloc

import pytest
from fake_backend import FakeBackend, Stream, _Bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from nexus.guest import abi
from nexus.guest.device import ArenaBody, Channel, EventfdTransport, call
from nexus.guest.device.channel import COPIED

ECHO, DIGEST = 99, 98
MIB = 1 << 20


class Backend(FakeBackend):
    """ECHO: `{"size": N, "seed": S}` bytes. DIGEST: the SHA-256 of the body as it is once `release` is set."""

    def __init__(self):
        super().__init__("http://127.0.0.1:1", ("a", "b"))
        self.entries = []
        self.release = threading.Event()
        self.release.set()

    def _dispatch(self, entry, operation, flags, head, body, stream):
        self.entries.append(entry)
        if operation == ECHO:
            data = content(head["size"], head["seed"])
            self._answer(entry, {"n": 1}, Stream(_Bytes(data), len(data)))
        elif operation == DIGEST:
            assert self.release.wait(60)
            at, length = entry[5], entry[6]
            answer = {"sha256": hashlib.sha256(self.arena[at : at + length]).hexdigest()}
            self._answer(entry, answer, Stream(_Bytes(b""), 0))
        else:
            super()._dispatch(entry, operation, flags, head, body, stream)


class Clone(EventfdTransport):
    clones = True


def content(size, seed):
    return hashlib.shake_256(bytes([seed])).digest(size)


@pytest.fixture(scope="module")
def lending():
    """The one channel of this process that lends."""
    backend = Backend()
    channel = Channel(Clone(os.dup(backend.arena_fd), os.dup(backend.doorbell), os.dup(backend.completion)))
    channel.backend = backend
    assert channel._loans is not None
    channel.lend()
    yield channel
    backend.close()


@pytest.fixture(params=["native", "python"])
def channel(lending, request):
    line, lending._line = lending._line, lending._line if request.param == "native" else None
    lending.shrink()
    free = lending.heap_free
    yield lending
    lending.shrink()
    assert lending.heap_free == free, "heap was lost"
    assert not lending._loans
    lending._line = line


def ask(channel, size, seed=1, room=MIB + (1 << 14)):
    reply = call(channel, ECHO, json.dumps({"size": size, "seed": seed}).encode(), room_min=1 << 14, room_max=room)
    with ArenaBody(channel, reply) as body:
        return body.read() if reply.data is None else reply.data


def digest(channel, body):
    return json.loads(call(channel, DIGEST, b"{}", body, room_min=1 << 12, room_max=1 << 12).head)["sha256"]


@pytest.mark.parametrize("size", [COPIED + 1, COPIED + 63, 2 * COPIED, MIB - 1, MIB])
def test_a_body_is_an_ordinary_object_where_it_lies(channel, size):
    body, expected = ask(channel, size), content(size, 1)
    assert channel.lent(body)
    assert type(body) is bytes
    assert body == expected
    assert (len(body), hash(body), body[-1], sys.getrefcount(body)) == (size, hash(expected), expected[-1], 2)
    assert io.BytesIO(body).read() is body
    part = memoryview(body)[10:20]
    del body
    channel.shrink()
    assert bytes(ask(channel, size, 2)) == content(size, 2)
    assert part == expected[10:20], "a view of it keeps it"


@pytest.mark.parametrize("size", [1, COPIED])
def test_small_bodies_are_copied(channel, size):
    body = ask(channel, size)
    assert not channel.lent(body)
    assert body == content(size, 1)


def test_an_object_that_grows_moves_out(channel):
    body = ask(channel, MIB)
    assert channel.lent(body)
    body += b"more"
    assert not channel.lent(body)
    assert body == content(MIB, 1) + b"more"


def test_what_is_sent_on_is_not_copied(channel):
    body = ask(channel, MIB)
    assert digest(channel, body) == hashlib.sha256(body).hexdigest()
    assert channel.backend.entries[-1][5] == channel.lent(body)
    assert digest(channel, bytearray(body)) == hashlib.sha256(body).hexdigest()


def test_what_is_being_sent_stays_until_the_backend_has_it(channel):
    backend, body = channel.backend, ask(channel, MIB)
    expected = hashlib.sha256(body).hexdigest()
    backend.release.clear()
    identity, ticket = channel.submit(DIGEST, b"{}", body, room_min=1 << 12, room_max=1 << 12)
    channel.abandon(ticket)
    del body, ticket
    size = MIB // 8
    kept = [ask(channel, size, seed, size + (1 << 14)) for seed in range(12)]
    entry = next(entry for entry in backend.entries if entry[0] == identity)
    assert hashlib.sha256(backend.arena[entry[5] : entry[5] + entry[6]]).hexdigest() == expected
    backend.release.set()
    assert digest(channel, b"") == hashlib.sha256(b"").hexdigest()
    assert all(body == content(size, seed) for seed, body in enumerate(kept))
    while channel._tickets:
        digest(channel, b"")


def test_a_program_that_keeps_all_leaves_half_of_the_heap(channel):
    kept = [ask(channel, MIB, seed) for seed in range(12)]
    lent = [channel.lent(body) for body in kept]
    assert 2 <= sum(map(bool, lent)) <= 4
    assert all(at < len(channel.arena) // 2 for at in lent)
    # The largest request that comes in one piece.
    large = bytes(channel.room_limit)
    assert digest(channel, large) == hashlib.sha256(large).hexdigest()
    assert all(body == content(MIB, seed) for seed, body in enumerate(kept))


def test_objects_may_end_in_any_thread(channel):
    wrong = []

    def work(seed):
        kept = []
        for n in range(30):
            body = ask(channel, COPIED + 1 + 977 * n, seed)
            kept.append(body)
            if body != content(len(body), seed) or digest(channel, body) != hashlib.sha256(body).hexdigest():
                wrong.append((seed, n))
            if n % 3 == 0:
                kept.clear()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


STEP = st.one_of(
    st.tuples(st.just("get"), st.integers(1, MIB), st.integers(0, 255)),
    st.tuples(st.sampled_from(["drop", "send", "grow", "check"]), st.integers(0, 7), st.just(0)),
)


@settings(max_examples=40)
@given(st.lists(STEP, max_size=25))
def test_any_order_of_reading_keeping_and_sending(lending, steps):
    lending.shrink()
    free = lending.heap_free
    kept = []
    for what, number, seed in steps:
        if what == "get":
            kept.append((ask(lending, number, seed), content(number, seed)))
        elif kept:
            body, expected = kept.pop(number % len(kept))
            assert body == expected
            if what == "send":
                assert digest(lending, body) == hashlib.sha256(expected).hexdigest()
            elif what == "grow":
                body += b"x"
                kept.append((body, expected + b"x"))
            elif what == "check":
                kept.append((body, expected))
    assert all(body == expected for body, expected in kept)
    body = None
    kept.clear()
    lending.shrink()
    assert lending.heap_free == free


def test_nothing_is_lent_that_is_not_the_heaps(lending):
    lender = lending._loans._native
    size = len(lending.arena)
    for offset, length in ((0, 10), (abi.HEAP, 10), (abi.HEAP + 33, 10), (size - 64, 64), (size, 1), (abi.HEAP + 64, size)):
        with pytest.raises(ValueError, match="cannot be lent"):
            lender.lend(offset, length)


def test_one_arena_lends_at_a_time(lending):
    from nexus.guest.device import loans

    body = ask(lending, MIB)
    assert lending.lent(body)
    with mmap.mmap(-1, 1 << 20) as other:
        assert loans.of(other) is None
    assert body == content(MIB, 1)


def test_while_allocations_are_traced_bodies_are_copied(channel):
    before = ask(channel, MIB)
    assert channel.lent(before)
    tracemalloc.start()
    try:
        del before
        body = ask(channel, MIB, 2)
        assert not channel.lent(body)
        assert body == content(MIB, 2)
    finally:
        tracemalloc.stop()
    assert channel.lent(ask(channel, MIB, 3))


@pytest.mark.parametrize(
    "setting", ["PYTHONMALLOC=debug", "PYTHONMALLOC=malloc", "PYTHONMALLOC=malloc_debug", "PYTHONTRACEMALLOC=1"]
)
def test_with_another_allocator_bodies_are_copied(setting):
    """Its objects lie otherwise, their end is not seen, or might not be seen later."""
    name, _, value = setting.partition("=")
    code = "import mmap; from nexus.guest.device import loans; print(loans.of(mmap.mmap(-1, 1 << 20)), bytes(10000) == bytes(10000))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, name: value}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["None", "True"]
