"""Things made before the snapshot, and what becomes of them in clones."""

import random
import secrets
import threading
import time
import uuid

from nexus.guest import clone
from snapshot_restore_py import register_after_restore, register_before_snapshot

ran = []
drawn = {}
at_import = clone.generation()


@register_before_snapshot
def first_registered():
    ran.append("before 1")


register_before_snapshot(ran.append, "before 2")
register_after_restore(ran.append, "after 1")


@register_after_restore
def last_registered():
    ran.append("after 2")


def draws():
    """At the first moment at which it runs in a clone, and without waiting for anything, draw."""
    while clone.generation() == at_import:
        pass
    drawn["random"] = random.getrandbits(64)
    drawn["uuid4"] = uuid.uuid4().hex
    drawn["secrets"] = secrets.token_hex(8)
    drawn["choice"] = "".join(random.choices("abcdefgh", k=20))


drawing = threading.Thread(target=draws)
drawing.start()
queue = threading.Condition()
answers = []


def serves():
    with queue:
        while True:
            queue.wait()
            answers.append("served")
            queue.notify_all()


threading.Thread(target=serves, daemon=True).start()
time.sleep(0.05)


def handler(event, context):
    drawing.join(20)
    with queue:
        queue.notify_all()
        queue.wait_for(lambda: answers, timeout=20)
    return {
        "ran": ran,
        "drawn": drawn,
        "answers": answers,
        "generations": [at_import, clone.generation()],
        "identity": clone.identity(),
    }
