"""Asks the hypervisor whether microVMs run here."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from typing import Any

from nexus import paths
from nexus.errors import NexusError

_DEADLINE = 20


@dataclass(frozen=True)
class Probe:
    """What ``nexus-vmm probe --json`` answered.

    :param works: microVMs run.
    :param machine: ``pvm``, ``vmx``, ``svm`` or empty.
    :param reason: why they do not run; empty where they do.
    :param fields: the whole answer.
    """

    works: bool
    machine: str
    reason: str
    fields: dict[str, Any] = field(default_factory=dict)


def probe() -> Probe:
    """Run the hypervisor's own probe: it starts a small virtual machine and looks at what it did."""
    try:
        result = subprocess.run(
            [str(paths.binary("nexus-vmm")), "probe", "--json"],
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (NexusError, OSError) as error:
        return Probe(works=False, machine="", reason=str(error))
    except subprocess.TimeoutExpired:
        return Probe(works=False, machine="", reason=f"the probe did not end within {_DEADLINE} s")
    try:
        fields = json.loads(result.stdout)
        machine = str(fields.get("machine") or "")
    except (ValueError, AttributeError):
        words = (result.stderr or result.stdout).strip()[-300:] or f"the probe ended with status {result.returncode}"
        return Probe(works=False, machine="", reason=words)
    reason = str(fields.get("reason") or fields.get("error") or "")
    works = result.returncode == 0 and bool(fields.get("usable", not reason))
    if works:
        return Probe(works=True, machine=machine, reason="", fields=fields)
    return Probe(works=False, machine=machine, reason=reason or result.stderr.strip()[-300:] or "unknown", fields=fields)
