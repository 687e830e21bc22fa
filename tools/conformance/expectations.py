"""What is expected of each module: a checked-in file per suite, tests/conformance/SUITE.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

PLACE = Path(__file__).resolve().parents[2] / "tests" / "conformance"


@dataclass(frozen=True)
class Expectations:
    """Of one suite.

    :param version: what they were made with; a prefix of the suite's version.
    :param passing: modules that pass in a microVM as a whole.
    :param partly: modules that pass but for some tests: each with the key of its reason.
    :param skipped: modules that are not run in a microVM: the key of the reason.
    :param reasons: decisions, by key.
    :param sample: modules that every test run of this project runs.
    """

    version: str
    passing: frozenset[str]
    partly: dict[str, dict[str, str]]
    skipped: dict[str, str]
    reasons: dict[str, str]
    sample: tuple[str, ...] = ()

    def ignored(self, module: str) -> tuple[str, ...]:
        """Tests of a module that are not run in a microVM."""
        return tuple(self.partly.get(module, ()))

    def known(self, module: str) -> bool:
        """Whether the file says anything about it."""
        return module in self.passing or module in self.partly or module in self.skipped


def load(suite: str) -> Expectations:
    """Read and check the file of a suite.

    :raises ValueError: the file contradicts itself.
    """
    document = tomllib.loads((PLACE / f"{suite}.toml").read_text())
    found = Expectations(
        version=document["version"],
        passing=frozenset(document["pass"]),
        partly=document.get("pass-but-for", {}),
        skipped=document.get("skip", {}),
        reasons=document.get("reasons", {}),
        sample=tuple(document.get("sample", ())),
    )
    keys = {*found.skipped.values(), *(key for tests in found.partly.values() for key in tests.values())}
    if keys != set(found.reasons):
        message = f"{suite}.toml: reasons without use or text: {sorted(keys ^ set(found.reasons))}"
        raise ValueError(message)
    names = [*document["pass"], *found.partly, *found.skipped]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"{suite}.toml: named twice: {twice}"
        raise ValueError(message)
    if not set(found.sample) <= {*found.passing, *found.partly}:
        message = f"{suite}.toml: the sample names what does not pass"
        raise ValueError(message)
    return found
