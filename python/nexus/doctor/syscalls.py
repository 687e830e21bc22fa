"""The hypervisor's system call table, as a person reads it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from nexus import paths
from nexus.errors import NexusError

# What the states mean, in the order of the page.
STATES = {
    "full": "served as Linux does, for one process",
    "partial": "served in part",
    "absent": "known and refused: programs probe for it and go another way",
    "unserved": "not there: answers ENOSYS, is counted and named in the log",
}


@dataclass(frozen=True)
class Call:
    """One system call of Linux on x86-64, and what becomes of it in a microVM.

    :param family: the file under ``crates/nexus-personality/src/syscall`` that serves it; None where none does.
    :param state: a key of :data:`STATES`.
    :param reason: what is different or why it is not there; empty for ``full``.
    """

    number: int
    name: str
    family: str | None
    state: str
    reason: str


def table() -> list[Call]:
    """All calls in order of their numbers, asked of the hypervisor itself.

    :raises NexusError: the hypervisor does not answer.
    """
    vmm = paths.binary("nexus-vmm")
    try:
        result = subprocess.run([str(vmm), "syscalls"], capture_output=True, text=True, timeout=10, check=True)
        return [Call(**row) for row in json.loads(result.stdout)]
    except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
        message = f"{vmm} does not tell its system calls ({error})"
        raise NexusError(message, "run `make setup`: the binary is of another version") from error


def text(calls: list[Call]) -> str:
    """A table for a terminal, and the counts."""
    lines = [
        f"{call.number:>4}  {call.name:<24} {call.state:<9} {call.family or '':<10} {call.reason}".rstrip() for call in calls
    ]
    return "\n".join([*lines, "", _counts(calls)])


def markdown(calls: list[Call]) -> str:
    """The page docs/syscalls.md."""
    lines = [
        "# System calls",
        "",
        "Made by `make docs` from the table in `crates/nexus-personality`; `nexus doctor --syscalls` shows the same.",
        f"{_counts(calls)}.",
        "",
        *(f"- *{state}*: {meaning}" for state, meaning in STATES.items()),
        "",
        "| number | call | state | family | what is different, or why it is not there |",
        "|---|---|---|---|---|",
        *(f"| {c.number} | {c.name} | {c.state} | {c.family or ''} | {c.reason} |" for c in calls if c.state != "unserved"),
        "",
        "## Not there, on purpose",
        "",
    ]
    reasons = dict.fromkeys(call.reason for call in calls if call.state == "unserved")
    for reason in reasons:
        names = ", ".join(call.name for call in calls if call.state == "unserved" and call.reason == reason)
        lines.append(f"- {reason}: {names}")
    return "\n".join([*lines, ""])


def _counts(calls: list[Call]) -> str:
    return f"{len(calls)} calls: " + ", ".join(f"{sum(c.state == state for c in calls)} {state}" for state in STATES)
