"""Selections: whoever waits for several submissions misses none that another thread adds."""

import json
import os
import threading
import time

import pytest
from fake_backend import FakeBackend, Stream, _Bytes
from nexus.guest import abi
from nexus.guest.device import Channel, EventfdTransport, Selection

LATER = 99
# Seconds: until the one that is waited for first is answered, and for anything that should come at once.
LONG, SOON = 60.0, 3.0


class LateBackend(FakeBackend):
    """Operation 99 is answered after `{"delay": S}`, or at the end of the test."""

    def __init__(self):
        super().__init__("http://127.0.0.1:1", ("a", "b"), abi.MIN_SIZE)
        self.over = threading.Event()
        self.held = []

    def _dispatch(self, entry, operation, flags, head, body, stream):
        if operation == LATER:
            self.held.append(threading.current_thread())
            self.over.wait(head["delay"])
            self._answer(entry, head, Stream(_Bytes(b""), 0))
        else:
            super()._dispatch(entry, operation, flags, head, body, stream)


@pytest.fixture
def channel():
    backend = LateBackend()
    yield Channel(EventfdTransport(os.dup(backend.arena_fd), os.dup(backend.doorbell), os.dup(backend.completion)))
    backend.over.set()
    for thread in backend.held:
        thread.join()
    backend.close()


class Waiting:
    """A thread that waits for the next of a selection."""

    def __init__(self, selection):
        self.found = []
        self.thread = threading.Thread(target=lambda: self.found.append(selection.wait()), daemon=True)
        self.thread.start()

    def owner(self):
        self.thread.join(SOON)
        assert self.found, "it waits still"
        return self.found[0] and self.found[0][1]


def later(channel, delay):
    _, ticket = channel.submit(LATER, json.dumps({"delay": delay}).encode(), room_max=1 << 10)
    return ticket


def until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_one_that_its_leader_handed_over_before_it_was_added(channel):
    selection = Selection(channel)
    selection.add(later(channel, LONG), "late")
    waiting = Waiting(selection)
    until(lambda: selection._leading)
    early = later(channel, 0)
    # The waiting thread takes the completion from the ring, finds that it is nobody's here, and waits in the kernel again.
    until(lambda: early.completion is not None and selection._leading)
    selection.add(early, "early")
    assert waiting.owner() == "early"


def test_one_that_completes_after_it_was_added(channel):
    selection = Selection(channel)
    selection.add(later(channel, LONG), "late")
    waiting = Waiting(selection)
    until(lambda: selection._leading)
    selection.add(later(channel, 0.1), "early")
    assert waiting.owner() == "early"


@pytest.mark.parametrize("delay", [0, 0.1])
def test_one_that_is_added_while_another_thread_leads(channel, delay):
    first, second = Selection(channel), Selection(channel)
    first.add(later(channel, LONG), "late")
    leader = Waiting(first)
    until(lambda: first._leading)
    follower = Waiting(second)
    until(lambda: second._following)
    early = later(channel, delay)
    if not delay:
        until(lambda: early.completion is not None)
    second.add(early, "early")
    assert follower.owner() == "early"
    first.wake()
    assert leader.owner() is None


def test_the_first_of_a_selection_that_waits_for_nothing_yet(channel):
    selection = Selection(channel)
    waiting = Waiting(selection)
    until(lambda: selection._following)
    selection.add(later(channel, 0.1), "only")
    assert waiting.owner() == "only"
