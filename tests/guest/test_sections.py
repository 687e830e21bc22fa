"""Handlers of signals wait for the ends of sections, and for nothing else."""

import gc
import os
import sys
import threading

import pytest
from nexus.guest import abi
from nexus.guest.device import Channel, Reply
from nexus.guest.device.mutex import Mutex
from nexus.guest.device.native import native
from nexus.guest.device.rehearsal import RehearsalTransport
from nexus.guest.device.sections import guard
from support import run

SIGNAL = 14


class Alarm(Exception):
    pass


def handler(*_):
    raise Alarm


@pytest.fixture
def section():
    made = native.Guard()
    made.watch()
    return made


def test_a_handler_waits_for_the_end_of_the_outermost_section(section):
    alarm, seen = native.Deferring(section, handler), []
    with pytest.raises(Alarm):
        alarm(SIGNAL, None)

    def twofold():
        with section:
            with section:
                alarm(SIGNAL, None)
            seen.append("behind the inner one")

    with pytest.raises(Alarm):
        twofold()
    assert seen == ["behind the inner one"]
    assert alarm.handler is handler


def test_a_wait_lets_it_run(section):
    alarm, waiting = native.Deferring(section, handler), native.Waiting(section)
    with section:
        with waiting, pytest.raises(Alarm):
            alarm(SIGNAL, None)
        alarm(SIGNAL, None)
        with pytest.raises(Alarm), waiting:
            pytest.fail("one that is late comes before the wait")
        alarm(SIGNAL, None)  # it is a section again
        with pytest.raises(Alarm), waiting:
            pass


def test_other_threads_are_in_no_section(section):
    alarm = native.Deferring(section, handler)
    thread = threading.Thread(target=section.__enter__)
    thread.start()
    thread.join()
    with pytest.raises(Alarm):
        alarm(SIGNAL, None)


def test_a_quiet_lock_is_a_section_and_collects_no_garbage(section):
    mutex = Mutex()
    mutex.keep_quiet(section)
    alarm, seen = native.Deferring(section, handler), []

    def held():
        with mutex:
            alarm(SIGNAL, None)
            seen.append(gc.isenabled())

    with pytest.raises(Alarm):
        held()
    assert seen == [False]
    assert gc.isenabled()
    # What is not held is not given back.
    mutex.release()
    with mutex:
        assert not mutex.try_acquire()
    assert gc.isenabled()


def test_who_waits_for_heap_leaves_nothing_where_a_handler_raises(monkeypatch):
    """The lock is given up to wait: what was put off comes then, and finds it taken again."""
    guard.watch()
    channel = Channel(RehearsalTransport(lambda operation, head: (0, b"{}", b""), abi.MIN_SIZE))
    free = channel.heap_free
    place = channel._heap.allocate(free)
    take_back = channel._take_back

    def interrupted():
        take_back()
        native.Deferring(guard, handler)(SIGNAL, None)

    monkeypatch.setattr(channel, "_take_back", interrupted)
    with pytest.raises(Alarm):
        channel.submit(abi.S3, b"{}", room_min=1 << 14, room_max=1 << 14, silent=True)
    monkeypatch.undo()
    assert not channel._starving
    assert not channel.seat.leader
    assert gc.isenabled()
    assert channel.lock.try_acquire()
    channel.lock.release()
    channel._heap.release(place[0], free)
    _, ticket = channel.submit(abi.S3, b"{}", room_min=1 << 14, room_max=1 << 14, silent=True)
    assert Reply(channel, ticket).head == "{}"
    assert channel.heap_free == free


def test_a_programs_handlers_are_shown_as_they_were_set():
    program = """
import signal
from nexus.guest.device.sections import watch
watch()
watch()
def own(*_): print("own")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.signal(signal.SIGUSR1, own) is signal.SIG_DFL
assert signal.getsignal(signal.SIGUSR1) is own
signal.raise_signal(signal.SIGUSR1)
assert signal.signal(signal.SIGUSR1, signal.SIG_IGN) is own
signal.raise_signal(signal.SIGUSR1)
for wrong in (5.0, None):
    try:
        signal.signal(signal.SIGUSR1, wrong)
    except TypeError as error:
        print(str(error).split(",")[0])
"""
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", program]
    text = "signal handler must be signal.SIG_IGN"
    assert run(command, env={"PATH": os.environ["PATH"], "PYTHONPATH": path}).splitlines() == ["own", text, text]
