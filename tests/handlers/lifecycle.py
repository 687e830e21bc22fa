"""Does what its event says, and tells which instance did it."""

import os
import threading
import time
import uuid

token = None
active = 0
most = 0
calls = 0
lock = threading.Lock()


def handler(event, context):
    global token, active, most, calls
    with lock:
        token = token or uuid.uuid4().hex
        calls += 1
        active += 1
        most = max(most, active)
    try:
        time.sleep(event.get("sleep_s", 0))
        if event.get("exit") is not None:
            os._exit(event["exit"])
        if event.get("signal"):
            os.kill(os.getpid(), event["signal"])
        if event.get("recurse"):
            import ctypes

            ctypes.string_at(0)
        while event.get("spin"):
            pass
        return {"token": token, "most": most, "calls": calls}
    finally:
        with lock:
            active -= 1
