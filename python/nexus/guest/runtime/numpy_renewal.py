"""Renewal of numpy's bit generators after a restore.

numpy draws 128 bits of entropy where a program gives none, and `seed_seq.entropy` shows them; a program that gives
a seed of its own that long is told apart by watching `default_rng`. Of the legacy generators only an unseeded one
has a `seed_seq`; `numpy.random.seed()` without an argument is watched for.
"""

import functools
import gc
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

Hook = Callable[[], object]
_GIVEN_BITS = 96  # of 128 random bits fewer than 97 are used once in 2**32


class NumpyTracker:
    """Watches `numpy.random` from its import until the snapshot."""

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        self._originals: dict[str, Any] = {}
        self._seeded: list[Any] = []
        self._global_unseeded = False

    def attach(self, module: ModuleType) -> None:
        """Begin to watch; `module` is numpy.random."""
        self._module = module
        default_rng, seed = module.default_rng, module.seed
        self._originals = {"default_rng": default_rng, "seed": seed}

        @functools.wraps(default_rng)
        def watched_default_rng(seed: Any = None) -> Any:
            generator = default_rng(seed)
            if seed is not None:
                self._seeded.append(generator.bit_generator)
            return generator

        @functools.wraps(seed)
        def watched_seed(*args: Any, **kwargs: Any) -> None:
            seed(*args, **kwargs)
            self._global_unseeded = not any(value is not None for value in (*args, *kwargs.values()))

        module.default_rng = watched_default_rng  # type: ignore[attr-defined]
        module.seed = watched_seed  # type: ignore[attr-defined]

    def hooks(self) -> list[Hook]:
        """End the watch; what has to be called in every clone."""
        module = self._module
        if module is None:
            return []
        for name, original in self._originals.items():
            if getattr(getattr(module, name), "__wrapped__", None) is original:
                setattr(module, name, original)
        seeded = {id(generator) for generator in self._seeded}
        shared = getattr(module.random, "__self__", None)
        shared_bits = getattr(shared, "_bit_generator", None)
        hooks: list[Hook] = []
        for generator in _bit_generators(module, shared_bits):
            if generator is shared_bits:
                if self._global_unseeded or _drew_its_own_entropy(generator):
                    hooks.append(functools.partial(_renew_legacy, shared))
            elif id(generator) not in seeded and _drew_its_own_entropy(generator):
                hooks.append(functools.partial(_renew, generator))
        self._seeded.clear()
        return hooks


def _bit_generators(module: ModuleType, shared: Any) -> list[Any]:
    """Every living bit generator, `shared` included."""
    base = module.BitGenerator
    found = {} if shared is None else {id(shared): shared}
    for candidate in gc.get_objects():
        kind = type(candidate)
        if kind is module.Generator:
            candidate = candidate.bit_generator  # noqa: PLW2901
        elif kind is module.RandomState:
            candidate = candidate._bit_generator  # noqa: PLW2901
        if issubclass(type(candidate), base):
            found[id(candidate)] = candidate
    return list(found.values())


def _drew_its_own_entropy(generator: Any) -> bool:
    entropy = getattr(generator.seed_seq, "entropy", None)
    return isinstance(entropy, int) and entropy.bit_length() > _GIVEN_BITS


def _renew(generator: Any) -> None:
    generator.state = type(generator)().state


def _renew_legacy(shared: Any) -> None:
    # 256 bits at a tenth of the cost of a new state.
    shared.seed(list(memoryview(os.urandom(32)).cast("I")))
