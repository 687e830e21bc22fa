"""A program that is interrupted at random by a handler that raises, in the midst of its calls; prints what was left of it."""

import gc
import json
import os
import random
import signal
import sys
import time

from nexus.guest import abi
from nexus.guest.device import ArenaBody, Channel, EventfdTransport, call
from nexus.guest.device.sections import guard, watch
from test_channel import ECHO, EchoBackend, pattern


class Alarm(Exception):
    pass


armed = [False]


def handler(number, frame):
    if armed[0]:
        raise Alarm


def main(seconds, interval_s):
    backend = EchoBackend("http://127.0.0.1:1", ("a", "b"), abi.MIN_SIZE)
    channel = Channel(EventfdTransport(os.dup(backend.arena_fd), os.dup(backend.doorbell), os.dup(backend.completion)))
    watch()
    signal.signal(signal.SIGALRM, handler)
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    free = channel.heap_free
    done = alarms = wrong = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        size = random.choice([0, 10, 3000, 60_000, 200_000])
        try:
            armed[0] = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, interval_s))
            head = json.dumps({"size": size}).encode()
            with guard:  # as the shims do
                body = ArenaBody(
                    channel, call(channel, ECHO, head, room_min=1 << 12, room_max=random.choice([1 << 14, 1 << 18]))
                )
            wrong += body.read() != pattern(size)
            done += 1
        except Alarm:
            alarms += 1
        finally:
            armed[0] = False
            signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()
    for _ in range(3):  # what was abandoned has come by now
        call(channel, ECHO, b'{"size": 0, "delay": 0.2}', room_max=1 << 12).release()
    left = channel.heap_free - free
    print(
        json.dumps(
            {
                "done": done,
                "alarms": alarms,
                "wrong": wrong,
                "left": left,
                "tickets": len(channel._tickets),
                "leader": channel.seat.leader,
            }
        )
    )
    sys.stdout.flush()
    os._exit(0)


main(float(sys.argv[1]), float(sys.argv[2]))
