"""A mixed load over a node that is killed again and again, and what must be true of the store's history in the end.

Writers of their own keys (`solo`) write data, then a manifest, and count up; others share keys with an external writer, with a
second node that goes on, and with a third that is killed once and never comes back.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from crash.faulty_store import FaultyStore
from crash.killable import Gone, Killable

MODES = ("sync", "commit", "journal")
BUCKET = "crash-bucket"


@dataclass
class Invocation:
    mode: str
    puts: list[tuple[str, str]]
    epoch: int
    shared: bool
    began: float
    ended: float = 0.0

    def sent(self) -> None:
        """It goes to the node that runs now, which may not be the one that ran when it was made."""
        self.began = time.monotonic()

    acknowledged: bool = False


@dataclass
class Report:
    kills: int = 0
    invocations: int = 0
    acknowledged: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    failed: int = 0
    applied: int = 0
    deferred: int = 0
    pending_at_kill: int = 0
    replayed: int = 0
    parked: int = 0
    unsure: int = 0
    problems: list[str] = field(default_factory=list)


class Load:
    def __init__(self, node: Killable, store: FaultyStore, seed: int) -> None:
        self.node, self.store = node, store
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.made: list[Invocation] = []
        # Of whom, and what.
        self.problems: list[tuple[str, str]] = []
        self.threads = [
            *(threading.Thread(target=self._solo, args=(f"{mode}{n}", mode, seed + n)) for n in range(2) for mode in MODES),
            *(threading.Thread(target=self._shared, args=(n, seed + 100 + n)) for n in range(2)),
        ]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def _invoke(self, mode: str, puts: list[tuple[str, str, int]], *, shared: bool) -> Invocation | None:
        if not self.node.up.wait(1):
            return None
        invocation = Invocation(mode, [(key, text) for key, text, _ in puts], self.node.epoch, shared, time.monotonic())
        with self.lock:
            self.made.append(invocation)
        ops = [{"op": "PutObject", "bucket": BUCKET, "key": key, "text": text, "size": size} for key, text, size in puts]
        try:
            answer = self.node.invoke(mode, ops, invocation.sent)
        except Gone:
            return invocation
        invocation.ended = time.monotonic()
        # Inside, a PUT may have failed as the SDK would have raised it: that is no acknowledgement either.
        invocation.acknowledged = answer is not None and all(status == 200 for status, _, _ in answer)
        return invocation

    def _solo(self, name: str, mode: str, seed: int) -> None:
        rng = random.Random(seed)
        count, known = 0, 0
        while not self.stopping.is_set():
            count += 1
            size = rng.choice([10, 1000, 70_000, 200_000])
            done = self._invoke(
                mode, [(f"{name}-data", f"{count}!", size), (f"{name}-manifest", f"{count}!", 10)], shared=False
            )
            if done is not None and done.acknowledged:
                known = count
            if rng.random() < 0.3:
                # Through the node everybody sees what was acknowledged, in the store or not.
                op = {"op": "GetObject", "bucket": BUCKET, "key": f"{name}-manifest"}
                try:
                    answer = self.node.invoke("sync", [op])
                except Gone:
                    continue
                if answer is not None and answer[0][0] in {200, 404}:
                    seen = int(answer[0][2].rstrip("!")) if answer[0][0] == 200 else 0
                    if seen < known:
                        self.problems.append((name, f"{known} was acknowledged, {seen} was read through the node"))

    def _shared(self, number: int, seed: int) -> None:
        rng = random.Random(seed)
        count = 0
        while not self.stopping.is_set():
            count += 1
            text = f"node-a {number} {count}!"
            self._invoke(rng.choice(MODES), [(f"shared{rng.randrange(3)}", text, rng.choice([50, 100_000]))], shared=True)
            time.sleep(rng.random() * 0.02)


def _outsiders(store: FaultyStore, second: Killable, stopping: threading.Event, seed: int) -> None:
    rng = random.Random(seed)
    count = 0
    while not stopping.is_set():
        count += 1
        store.write(f"{BUCKET}/shared{rng.randrange(3)}", f"external {count}!")
        put = {"op": "PutObject", "bucket": BUCKET, "key": f"shared{rng.randrange(3)}", "text": f"node-b {count}!", "size": 80}
        second.invoke(rng.choice(MODES), [put])
        time.sleep(rng.random() * 0.05)


def run(directory: Path, kills: int, seed: int, *, fault_rate: float, longest_s: float = 1.0, say=lambda _: None) -> Report:
    """Kill a node ``kills`` times; what came of it."""
    rng = random.Random(seed)
    store = FaultyStore(seed=seed, fault_rate=fault_rate)
    nodes = {name: Killable(directory / name, store.url) for name in "abc"}
    report = Report()
    stopping = threading.Event()
    try:
        for node in nodes.values():
            node.start()
            for mode in MODES:
                node.deploy(mode, writes=mode, commit_deadline_s=20)
        # A node that never returns: it has acknowledged a journalled write that the store does not have.
        _leave(store, nodes["c"])
        node = nodes["a"]
        outsiders = threading.Thread(target=_outsiders, args=(store, nodes["b"], stopping, seed))
        outsiders.start()
        load = Load(node, store, seed)
        # Deployments end: the first kill finds work.
        time.sleep(0.5)
        for number in range(kills):
            time.sleep(rng.uniform(0.01, longest_s))
            if rng.random() < 0.1:
                store.down = not store.down
            if rng.random() < 0.5:
                state = node.writes()
                report.deferred += state["deferred"]
                report.pending_at_kill += state["pending"]
            node.kill()
            node.tear(rng)
            node.start()
            report.kills += 1
            if number % 50 == 49:
                say(
                    f"{number + 1} kills, {node.replayed()} replayed, {report.deferred} deferred in half of them, {len(load.made)} invocations, {len(store.history)} writes applied"
                )
        store.down, store.fault_rate = False, 0.0
        time.sleep(0.5)
        load.stop()
        stopping.set()
        outsiders.join()
        deadline = time.monotonic() + 90
        while (state := node.writes())["pending"] and time.monotonic() < deadline:
            time.sleep(0.05)
        if state["pending"]:
            report.problems.append(f"{state['pending']} writes never ended")
        report.replayed = node.replayed()
        _check(report, load, store, state["parked"], nodes["c"])
    finally:
        stopping.set()
        for each in nodes.values():
            each.close()
        store.close()
    return report


def _leave(store: FaultyStore, node: Killable) -> None:
    put = {"op": "PutObject", "bucket": BUCKET, "key": "lost", "text": "learn!", "size": 0}
    rate, store.fault_rate = store.fault_rate, 0.0
    assert node.invoke("journal", [put])
    store.down = True
    answer = node.invoke("journal", [{**put, "text": "never to be seen!"}])
    assert answer, "the journal was not used"
    node.kill()
    store.down, store.fault_rate = False, rate


def _check(report: Report, load: Load, store: FaultyStore, parked: list[dict], _gone: Killable) -> None:
    problem = report.problems.append
    history = list(store.history)
    report.invocations, report.applied, report.parked = len(load.made), len(history), len(parked)
    first: dict[tuple[str, str], float] = {}
    for write in history:
        if not write.whole:
            problem(f"{write.key} was half visible: {write.text[:40]!r}")
        first.setdefault((write.key, write.text), write.at)
    set_aside = {f"{BUCKET}/{write['key']}" for write in parked}
    # Cut off between its acceptance and its look at the store, the node cannot tell its own last write, if that was cut off
    # as well, from another's: it asks instead of overwriting.
    for write in parked:
        if "shared" not in write["key"]:
            report.unsure += 1
            if not any(text in write["reason"] for text in _UNSURE):
                problem(f"{write['key']} is parked although nobody else writes it: {write['reason']}")
    if report.unsure > report.kills / 20:
        problem(f"{report.unsure} writes are parked that nobody else's came between")
    for name, what in load.problems:
        if f"{BUCKET}/{name}-manifest" not in set_aside:
            problem(f"{name}: {what}")
    missing: dict[str, int] = {}
    for made in load.made:
        if not made.ended:
            report.unknown += 1
        elif not made.acknowledged:
            report.failed += 1
        if not made.acknowledged:
            continue
        report.acknowledged[made.mode] = report.acknowledged.get(made.mode, 0) + 1
        for key, text in made.puts:
            at = first.get((f"{BUCKET}/{key}", text))
            if at is None and made.mode == "journal" and f"{BUCKET}/{key}" in set_aside:
                missing[key] = missing.get(key, 0) + 1
            elif at is None:
                problem(f"lost: {made.mode} {key} {text!r}, acknowledged in epoch {made.epoch}")
            elif at is not None and made.mode != "journal" and at > made.ended:
                problem(f"{made.mode} {key} {text!r} was acknowledged before it was stored")
    for key, count in missing.items():
        kept = sum(write["key"] == key for write in parked)
        if count > kept:
            problem(f"lost: {count} writes of {key} are missing, {kept} are parked")
    _check_order(problem, history)
    _check_conditions(problem, load, history)
    if store.text(f"{BUCKET}/lost") != "learn!":
        problem("a write of the node that never came back appeared")


_UNSURE = ("at about the time", "in the same invocation", "write of this object before it")


def _check_order(problem, history) -> None:
    latest: dict[str, int] = {}
    for write in history:
        name = write.key.removeprefix(f"{BUCKET}/")
        if "-" not in name:
            continue
        count = int(write.text.rstrip("!"))
        if count < latest.get(name, 0):
            problem(f"{name} went back from {latest[name]} to {count}")
        latest[name] = max(latest.get(name, 0), count)
        owner, _, part = name.partition("-")
        if part == "manifest" and latest.get(f"{owner}-data", 0) < count:
            problem(f"{owner}: manifest {count} was there before its data")


def _check_conditions(problem, load: Load, history) -> None:
    """What is written after a restart is conditional."""
    restarts = load.node.restarts
    made = {(f"{BUCKET}/{key}", text): i for i in load.made for key, text in i.puts}
    for write in history:
        invocation = made.get((write.key, write.text))
        if invocation is None or write.conditional:
            continue
        later = [at for at in restarts if at > invocation.began]
        if later and write.at > later[0] and not (invocation.ended and invocation.ended > later[0]):
            problem(f"{write.key} {write.text!r} was replayed without a condition")
