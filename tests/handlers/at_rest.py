"""Keeps memory over its calls: some that was there before the snapshot, some changed since; touches all of it in each."""

import hashlib
import threading
import time

before = [bytes([number % 251]) * 600 for number in range(4000)]
changed = bytearray(1 << 20)
sparse = bytearray(1 << 20)
waiting = threading.Event()
calls = 0
ticks = []


def tick():
    while not waiting.wait(1):
        ticks.append(bytes([len(ticks) % 256]) * 100)


def handler(event, context):
    global calls
    calls += 1
    if calls == 1 and event["way"] == "thread":
        threading.Thread(target=waiting.wait, daemon=True).start()
    if calls == 1 and event["way"] == "ticks":
        threading.Thread(target=tick, daemon=True).start()
    # Every reference is counted up and down again: all pages become this instance's own, as they were before.
    for part in list(before):
        del part
    start = (calls % 16) << 16
    changed[start : start + 4096] = bytes([calls % 256]) * 4096
    # Every page differs in a few bytes.
    for page in range(0, 1 << 20, 4096):
        sparse[page + calls * 50 % 4096] += 1
    digest = hashlib.sha256()
    for part in before:
        digest.update(part)
    answer = {
        "calls": calls,
        "before": digest.hexdigest(),
        "changed": hashlib.sha256(changed).hexdigest(),
        "sparse": hashlib.sha256(sparse).hexdigest(),
        "ticks": [len(ticks), all(part == bytes([number % 256]) * 100 for number, part in enumerate(ticks))],
    }
    time.sleep(event.get("sleep", 0))
    return answer
