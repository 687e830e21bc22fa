"""What of a machine ends first when thousands of instances live on it, looked at before they are started."""

from __future__ import annotations

import re
from pathlib import Path

from nexus.errors import NexusError

# Of one instance at rest: tasks of its hypervisor (main thread, one vCPU, one of KVM's own), and descriptors of nexusd (the
# doorbell, the channel for connections, the pipes of its output and of its report).
TASKS = 3
FILES = 4
# Least that one takes once it is at rest, in MiB.
LEAST_MIB = 2
# Left alone, in MiB: the machine is not driven into its reserves.
RESERVE_MIB = 2048
# Descriptors that a node uses beside its instances: connections above all, and what starts take for a moment.
OTHER_FILES = 2200


def check(instances: int, daemon: int, available_kib: int) -> None:
    """Whether ``instances`` fit.

    :param daemon: process id of nexusd.
    :raises NexusError: they do not; it says what they need, what there is, and how to change that.
    """
    tasks = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[2])
    most_tasks = min(_number("/proc/sys/kernel/pid_max"), _number("/proc/sys/kernel/threads-max"))
    limits = Path(f"/proc/{daemon}/limits").read_text(encoding="ascii")
    match = re.search(r"^Max open files\s+(\d+)", limits, re.MULTILINE)
    files = int(match[1]) if match else 1 << 30
    needs = [
        (tasks + instances * TASKS, most_tasks, "tasks", "raise kernel.pid_max and kernel.threads-max"),
        (instances * FILES + OTHER_FILES, files, "open files of nexusd", "raise the hard limit of nofile (ulimit -H -n)"),
        (instances * LEAST_MIB + RESERVE_MIB, available_kib >> 10, "MiB of available memory", "ask for fewer: --instances"),
    ]
    for needed, there, what, advice in needs:
        if needed > there:
            raise NexusError(f"{instances} instances need {needed} {what}; this machine has {there}", advice)


def _number(path: str) -> int:
    return int(Path(path).read_text(encoding="ascii"))
