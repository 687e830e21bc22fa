"""The checks of ``nexus doctor``: each gives one finding, with what to do about it."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nexus import __version__, paths
from nexus.doctor.probe import Probe, probe
from nexus.errors import NexusError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MACHINES = {
    "pvm": "PVM: KVM without VMX or SVM; guests run natively at CPL 3 under shadow page tables. Isolation is by software, "
    "exits cost about 26 us",
    "hardware": "hardware virtualisation",
    "vmx": "hardware virtualisation (VMX)",
    "svm": "hardware virtualisation (SVM)",
}
_GET_LANDLOCK_VERSION = 444, None, 0, 1
# Per instance: a few threads, four descriptors in nexusd (a dozen at its start), a few hundred mappings in its own VMM.
_WANTED_PIDS = 32_768
# 4,000 instances, of which each takes four (docs/decisions/0023), and what else a node has open.
_WANTED_FILES = 20_000
_WANTED_MAPS = 65_530
_WANTED_PROCESSES = 16_384
_FOLIOS = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    :param level: ``ok``, ``note`` (worth knowing), ``warn`` (works, but less well), ``fail`` (functions cannot run).
    """

    level: str
    name: str
    text: str
    advice: str = ""


def examine() -> list[Finding]:
    """All findings, in the order they are shown."""
    answer = probe()
    findings = [_machine(), *_binaries(), *_kvm(answer), _python(), _landlock(), _cgroups(), *_limits(), *_folios(answer)]
    findings.append(_isolation(answer))
    return findings


def _machine() -> Finding:
    text = f"nexus {__version__} on {platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return Finding("fail", "machine", text, "Nexus runs on Linux on x86-64")
    return Finding("ok", "machine", text)


def _binaries() -> Iterator[Finding]:
    for name in paths.BINARIES:
        try:
            yield Finding("ok", name, str(paths.binary(name)))
        except NexusError as error:
            yield Finding("fail", name, error.message, error.hint)


def _kvm(answer: Probe) -> Iterator[Finding]:
    if answer.works:
        meaning = _MACHINES.get(answer.machine, answer.machine or "unknown kind")
        yield Finding("ok", "kvm", meaning)
        if answer.machine == "pvm":
            yield Finding(
                "note",
                "trust",
                "under PVM a bug in the host kernel's PVM module can break isolation; there is no hardware wall behind it",
                "for tenants who distrust each other use a machine with VMX or SVM",
            )
        return
    device = Path("/dev/kvm")
    if not device.exists():
        advice = "load kvm_intel, kvm_amd or kvm_pvm, or enable nested virtualisation; without it use --isolation process"
        yield Finding("warn", "kvm", "there is no /dev/kvm", advice)
    elif not os.access(device, os.R_OK | os.W_OK):
        yield Finding("warn", "kvm", "/dev/kvm is not yours to open", "sudo usermod -aG kvm $USER, then log in again")
    else:
        yield Finding("warn", "kvm", f"microVMs do not run: {answer.reason}", "use --isolation process until that is solved")


def _python() -> Finding:
    from nexus.packaging import interpreter

    try:
        found = interpreter.find()
    except NexusError as error:
        return Finding("fail", "python", error.message, error.hint)
    return Finding("ok", "python", f"{found.version}, {found.executable}; functions run on it")


def _landlock() -> Finding:
    # landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION), landlock_create_ruleset(2).
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(*(ctypes.c_long(value or 0) for value in _GET_LANDLOCK_VERSION))
    if version > 0:
        return Finding("ok", "landlock", f"ABI {version}: instances are kept from the host's files by the kernel too")
    reason = os.strerror(ctypes.get_errno())
    advice = "boot with lsm=landlock,... on Linux 5.13 or later; user id, seccomp and the root table hold without it"
    return Finding("warn", "landlock", f"not available ({reason})", advice)


def _cgroups() -> Finding:
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    try:
        present = controllers.read_text(encoding="utf-8").split()
    except OSError:
        return _old_cgroups()
    own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::")[2]
    writable = os.access(Path("/sys/fs/cgroup") / own.lstrip("/"), os.W_OK)
    if "memory" in present and writable:
        return Finding(
            "ok", "cgroups", f"v2 with {' '.join(present)}: all instances are put into one, and share the CPU equally"
        )
    text = f"v2, {'memory controller missing' if 'memory' not in present else 'not delegated to this user'}"
    return Finding(
        "note", "cgroups", text, "memory limits are the hypervisor's own; run under systemd with Delegate=yes for a second wall"
    )


def _old_cgroups() -> Finding:
    mount = Path("/sys/fs/cgroup/memory")
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    own = next((path for _, names, path in (line.split(":", 2) for line in lines) if "memory" in names.split(",")), None)
    if own is not None and os.access(mount / own.lstrip("/"), os.W_OK):
        return Finding("ok", "cgroups", "v1 with memory: all instances are put into one, and share the CPU equally")
    advice = "memory limits are the hypervisor's own; with one there is a second wall"
    return Finding("note", "cgroups", "none that this user may add to", advice)


def _folios(answer: Probe) -> Iterator[Finding]:
    # Under shadow paging a first touch costs tens of microseconds; a folio's neighbours come along with it.
    file = Path(_FOLIOS)
    if answer.machine != "pvm" or not file.exists():
        return
    chosen = re.search(r"\[(\w+)\]", file.read_text(encoding="utf-8"))
    if chosen is not None and chosen[1] != "never":
        yield Finding("ok", "folios", "fresh memory comes 64 KiB at a time")
    else:
        advice = f"echo always > {_FOLIOS}: functions that allocate much run several times as fast under PVM"
        yield Finding("note", "folios", "fresh memory comes 4 KiB at a time", advice)


def _limits() -> Iterator[Finding]:
    for name, path, wanted in (
        ("pid_max", "/proc/sys/kernel/pid_max", _WANTED_PIDS),
        ("max_map_count", "/proc/sys/vm/max_map_count", _WANTED_MAPS),
    ):
        value = int(Path(path).read_text(encoding="utf-8"))
        key = path.removeprefix("/proc/sys/").replace("/", ".")
        yield _limit(name, value, wanted, f"sysctl {key}={wanted * 4}, for thousands of instances")
    for name, which, wanted, option in (
        ("nofile", resource.RLIMIT_NOFILE, _WANTED_FILES, "-n"),
        ("nproc", resource.RLIMIT_NPROC, _WANTED_PROCESSES, "-u"),
    ):
        _, hard = resource.getrlimit(which)
        value = (1 << 62) if hard == resource.RLIM_INFINITY else hard
        yield _limit(name, value, wanted, f"ulimit -H {option} {wanted}, in the service's unit or limits.conf")


def _limit(name: str, value: int, wanted: int, advice: str) -> Finding:
    text = "unlimited" if value >= 1 << 62 else f"{value}"
    if value >= wanted:
        return Finding("ok", name, text)
    return Finding("note", name, f"{text}: enough for hundreds of instances, not for thousands", advice)


def _isolation(answer: Probe) -> Finding:
    if answer.works:
        return Finding("ok", "isolation", f"kvm is chosen by `auto`: microVMs run here ({answer.machine or 'kvm'})")
    advice = "`nexus up --isolation process` runs functions as jailed processes: the same results, a weaker wall"
    return Finding("warn", "isolation", f"`auto` refuses to start here: {answer.reason}", advice)
