"""What a node keeps open for an instance at rest: the limit on descriptors is the first that thousands of instances meet."""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from nexus.bench import limits

COUNT = 4


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return result


def kept(pid):
    """What nexusd has open, by kind, without its connections: clients and servers have a say in those."""
    tcp = {line.split()[9] for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]}
    kinds = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            kind, _, number = os.readlink(entry).partition(":[")
            if number.rstrip("]") not in tcp:
                kinds[kind] += 1
    return kinds


def zombies(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    found.append(child)
    return found


def test_an_instance_at_rest_keeps_few_descriptors_and_leaves_none(node, handlers):
    node.deploy("counted", handlers / "lifecycle.py", memory_mib=128, max_instances=COUNT)
    pid = node.nexus.record.processes["nexusd"].pid

    def at_rest(count):
        living = [one for one in node.admin("GET", "/nexus/v1/instances")[1] if one["function"] == "counted"]
        ready = node.isolation != "kvm" or node.admin("GET", "/nexus/v1/status")[1]["shells"] == 2
        return ready and len(living) == count

    # The first of all, whose working set is recorded.
    node.invoke("counted", {})
    node.admin("POST", "/nexus/v1/functions/counted/evict")
    assert until(lambda: at_rest(0))
    before = kept(pid)
    with ThreadPoolExecutor(COUNT) as pool:
        list(pool.map(lambda _: node.invoke("counted", {"sleep_s": 2}), range(COUNT)))
    assert until(lambda: at_rest(COUNT))
    assert until(lambda: (kept(pid) - before).total() == COUNT * limits.FILES), kept(pid) - before
    node.admin("POST", "/nexus/v1/functions/counted/evict")
    assert until(lambda: at_rest(0))
    assert until(lambda: kept(pid) == before), (kept(pid), before)
    assert until(lambda: not zombies(pid))
