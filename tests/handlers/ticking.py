"""Has an interval timer since its import."""

import signal
import time

rung = []
signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)


def handler(event, context):
    before, end = len(rung), time.monotonic() + 5
    while len(rung) < before + 2 and time.monotonic() < end:
        time.sleep(0.01)
    return {"rung": len(rung) - before}
