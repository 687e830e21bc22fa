"""What has to hold on hardware KVM: commands in the lane's machine, and what they must say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One command.

    :param status: its exit status; 128 + n where signal n ended it.
    :param says: texts that its output must contain.
    :param never: texts that it must not contain.
    :param local: it holds on any machine with KVM, not only in the lane's.
    """

    name: str
    command: tuple[str, ...]
    status: int = 0
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    local: bool = True

    def wrong(self, status: int, output: str) -> list[str]:
        """What is not as it must be."""
        faults = [] if status == self.status else [f"status {status}, not {self.status}"]
        faults += [f"it does not say {text!r}" for text in self.says if text not in output]
        faults += [f"it says {text!r}" for text in self.never if text in output]
        return faults


def guest(name: str, *arguments: str, **expected: object) -> Case:
    """A program of tests/programs in a microVM of its own."""
    label = "-".join([name, *arguments])
    command = ("/bin/nexus-vmm", "run", "--", f"/programs/{name}", *arguments)
    return Case(label, command, **expected)  # type: ignore[arg-type]


# Of tests/programs/hostile: what CPL 0 and real page tables make a difference to (tests/security runs them all).
HOSTILE = ("privileged", "straddle", "sockets", "frames", "exhaust", "patched", "fuzz")

# Each is refused at CPL 3, which the program then proves to be at (tests/security tries many more).
PRIVILEGED = ("cr0", "cr3", "lgdt", "lidt", "hlt", "swapgs", "sysretq", "vmrun", "xsetbv")

SIGILL, SIGFPE, SIGSEGV = 128 + 4, 128 + 8, 128 + 11

CASES = [
    Case("probe", ("/bin/nexus-vmm", "probe", "--json"), says=('"usable":true', '"machine":"svm"'), local=False),
    guest("hello", status=7, says=("hello from a microVM", "argument: none")),
    guest("hello", "one", status=7, says=("argument: one",)),
    guest("threads", says=("sum 80000",)),
    guest("state", says=("state survives",), never=("wrong",)),
    guest("clock", says=("clock holds, without exits",)),
    guest("signals", says=("signals hold",)),
    guest("processes", says=("processes hold",)),
    guest("loopback", says=("loopback holds",)),
    # A fault that nobody handles ends the guest with its signal ...
    guest("fault", "read", status=SIGSEGV),
    guest("fault", "ud", status=SIGILL),
    guest("fault", "divide", status=SIGFPE),
    guest("fault", "halt", status=SIGSEGV),
    # ... and one that somebody handles is told exactly.
    guest("caught", "read", says=("signal 11 address 0x50000000",)),
    guest("caught", "write", says=("signal 11 address 0x50000008",)),
    guest("caught", "readonly", says=("signal 11 at the page",)),
    guest("caught", "execute", says=("signal 11 at the page",)),
    guest("caught", "ud", says=("signal 4 at the instruction",)),
    guest("caught", "divide", says=("signal 8 at the instruction",)),
    guest("caught", "halt", says=("signal 11",)),
    guest("caught", "port", says=("signal 11",)),
    guest("caught", "msr", says=("signal 11",)),
    # The microVM's own tests: registers, exceptions, ports, tables, doorbell, extended state.
    Case("machine", ("/hardware/machine", "--test-threads=1"), says=(" 0 failed",), never=("nothing was tested",), local=False),
    Case(
        "snapshot",
        ("/hardware/node", "/bin/nexus-vmm", "/programs", "/tmp/snapshot"),
        says=("taken", "woken: clone 1", "woken: clone 3", "damage is noticed in every file", "snapshot holds"),
        never=("wrong",),
    ),
    guest("privileged", "sweep", says=(" 0 wrong",), local=False),
    *(guest("privileged", attempt, says=("signal", "at CPL 3"), local=False) for attempt in PRIVILEGED),
    guest("straddle", says=("no call went beyond",), local=False),
    guest("sockets", says=("attempts refused",), local=False),
    guest("frames", "sigreturn", status=SIGSEGV, local=False),
    guest("frames", "frame", status=SIGSEGV, local=False),
    guest("exhaust", "threads", says=("goes on",), local=False),
    guest("patched", "code", says=("nothing wrong",), local=False),
    guest("patched", "stub", says=("nothing wrong",), local=False),
    guest("patched", "ports", says=("nothing wrong",), local=False),
    guest("fuzz", "sweep", "3", "5", says=(" calls, the last",), never=("panicked", "signal"), local=False),
    guest("caught", "stub", says=("no page of the machine can be written", "512 pages refused")),
    # Where the host does not keep its time by the TSC, the vDSO asks the kernel by itself.
    Case(
        "clock-fallback",
        ("/hardware/clocksource", "acpi_pm", "/bin/nexus-vmm", "run", "--", "/programs/clock", "fallback"),
        says=("clock source: acpi_pm", "clock holds, by system calls"),
        local=False,
    ),
]
