"""Renewal after a restore: whatever was drawn at random before the snapshot must not repeat in its clones.

Before the snapshot `Tracker` notes which generators were made without a seed; those that the program seeded keep
their state, since there repeating is what it asked for. Every clone then calls what `hooks` returned.
"""

import functools
import os
import random
import sys
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..imports import when_imported
from .numpy_renewal import NumpyTracker

Hook = Callable[[], object]


class Tracker:
    """Watches generators being made, from the runtime's start until the snapshot."""

    def __init__(self) -> None:
        self._unseeded: weakref.WeakSet[random.Random] = weakref.WeakSet()
        self._at_fork: list[Hook] = []
        self._original_seed = random.Random.seed
        self._original_register = os.register_at_fork
        self._numpy = NumpyTracker()

    def start(self) -> None:
        """Begin to watch. To be called before the handler is imported."""
        tracker, original, register = self, self._original_seed, self._original_register

        @functools.wraps(original)
        def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
            original(self, a, version)
            if a is None:
                tracker._unseeded.add(self)
            else:
                tracker._unseeded.discard(self)

        @functools.wraps(register)
        def register_at_fork(**hooks: Any) -> None:
            register(**hooks)
            if "after_in_child" in hooks:
                tracker._at_fork.append(hooks["after_in_child"])

        random.Random.seed = seed  # type: ignore[method-assign]
        os.register_at_fork = register_at_fork
        shared = _shared_random()
        if shared is not None:
            self._unseeded.add(shared)
            random.seed = shared.seed
        when_imported("numpy.random", self._numpy.attach)

    def stop(self) -> None:
        """End the watch."""
        random.Random.seed = self._original_seed  # type: ignore[method-assign]
        os.register_at_fork = self._original_register
        shared = _shared_random()
        if shared is not None:
            random.seed = shared.seed

    def hooks(self) -> list[Hook]:
        """What has to be called in every clone of the process as it is now, in that order."""
        hooks: list[Hook] = [generator.seed for generator in self._unseeded if type(generator).seed is random.Random.seed]
        hooks += self._numpy.hooks()
        if (clone := sys.modules.get("nexus.guest.clone")) is not None:
            hooks.append(clone.renew)
        if (uuid := sys.modules.get("uuid")) is not None:
            _prepare_uuid(uuid)
        return [*hooks, functools.partial(_without_new_pid, os.getpid()), *self._at_fork]


def _shared_random() -> random.Random | None:
    """The instance behind `random.random()` and its like."""
    shared = getattr(random.random, "__self__", None)
    return shared if isinstance(shared, random.Random) else None


def _without_new_pid(before: int) -> None:
    """What renews itself in a process with another id, where the id happens to be the same.

    OpenSSL's generators and tempfile's names both compare process ids, so that touching their pages (1 ms) is left to
    the clones that use them.
    """
    if os.getpid() != before:
        return
    if (ssl := sys.modules.get("ssl")) is not None:
        ssl.RAND_add(os.urandom(48), 48.0)
    if (tempfile := sys.modules.get("tempfile")) is not None:
        tempfile._name_sequence = None  # type: ignore[attr-defined]


def _prepare_uuid(uuid: ModuleType) -> None:
    """Let each clone's first uuid1 draw a node of its own (multicast bit set: RFC 4122, 4.5).

    Without libuuid, whose clock sequence is in its own memory; the fallback draws one from `random` for every call.
    """

    def getnode() -> int:
        node: int | None = uuid._node
        if node is None:
            node = int.from_bytes(os.urandom(6), "big") | (1 << 40)
            uuid._node = node  # type: ignore[attr-defined]
        return node

    uuid._node = None  # type: ignore[attr-defined]
    uuid._generate_time_safe = None  # type: ignore[attr-defined]
    uuid.getnode = getnode  # type: ignore[attr-defined]


def run(hooks: list[Hook]) -> None:
    """Call each hook; one that fails is named in the log and keeps no other from running."""
    for hook in hooks:
        try:
            hook()
        except Exception as error:
            name = getattr(hook, "__qualname__", repr(hook))
            sys.stderr.write(f"nexus: {name} failed after the restore: {type(error).__name__}: {error}\n")
