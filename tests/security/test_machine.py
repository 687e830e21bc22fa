"""Attempts at the machine: each is told to the guest or ends it; none runs at CPL 0, none hurts the hypervisor."""

import os
import signal

import pytest

pytestmark = pytest.mark.kvm

# What no program at CPL 3 may do: it is told of the fault.
REFUSED = [
    *("cr0", "cr3", "cr4", "cr8", "dr7", "lgdt", "lidt", "lldt", "ltr", "lmsw", "invlpg", "invd", "wbinvd", "clts"),
    *("hlt", "cli", "sti", "swapgs", "sysretq", "sysexit", "sysenter", "vmrun", "clgi", "xsetbv", "rdpmc"),
    *("monitor", "mwait", "rsm", "nested-task", "non-canonical", "non-canonical-stack"),
]
# What may have no effect, or one upon the program alone.
HARMLESS = ["wrpkru", "popf", "trap-flag", "alignment", "no-stack-call", "wild-base"]
# Registers behind system calls, the APIC, descriptor bases, KVM's own interfaces.
REGISTERS = [0x10, 0x1B, 0xC0000080, 0xC0000081, 0xC0000082, 0xC0000084, 0xC0000101, 0x4B564D00, 0x4B564D01, 0x40000000]
PORTS = [0x20, 0x64, 0x80, 0x3F8, 0xCF8, 0x510, 0x5658, 0xFFFF]
SELECTORS = [*range(0, 0x50, 8), *range(3, 0x53, 8), 0x07, 0xFFFF]
# The machine's own pages, the doorbell, the APIC, vsyscall, beyond what an address can be.
PLACES = [*range(0x200000, 0x210000, 0x1000), 0x3FF000, 0xBFE00000, 0xFEE00000, 0xFFFFFFFFFF600000, 0x8000000000000000]


def told(ended):
    """The program was told by a signal and still works, at CPL 3."""
    return ended.status == 0 and "signal" in ended.output and "at CPL 3" in ended.output


def unharmed(ended):
    """As ``told``; or the attempt had no effect; or it ended the guest."""
    return (ended.status == 0 and "at CPL 3" in ended.output) or (
        ended.status > 0 and ended.in_order and ended.status not in {92, 93}
    )


@pytest.mark.parametrize("attempt", REFUSED)
def test_privileged_instructions_are_faults(attack, attempt):
    ended = attack("privileged", attempt)
    assert told(ended), ended


@pytest.mark.parametrize("attempt", HARMLESS)
def test_odd_instructions_harm_nobody(attack, attempt):
    ended = attack("privileged", attempt)
    assert unharmed(ended), ended


@pytest.mark.parametrize("number", [0, 1, 5, 9, 10, 11, 12, 1 << 30])
@pytest.mark.parametrize("attempt", ["vmcall", "vmmcall"])
def test_no_hypervisor_takes_calls_of_a_program(attack, attempt, number):
    """A fault; or, where the host itself runs on a hypervisor that takes them from PVM's guests, that one's refusal."""
    ended = attack("privileged", attempt, str(number))
    assert told(ended) or (ended.status == 0 and "hypercall refused" in ended.output and "at CPL 3" in ended.output), ended


@pytest.mark.parametrize("attempt", ["rdmsr", "wrmsr"])
def test_model_specific_registers_are_out_of_reach(attack, attempt):
    for register in REGISTERS:
        ended = attack("privileged", attempt, hex(register))
        assert told(ended), (hex(register), ended)


@pytest.mark.parametrize("attempt", ["out8", "out16", "out32", "in8", "outs", "ins"])
def test_ports_are_closed(attack, attempt):
    for port in PORTS:
        ended = attack("privileged", attempt, hex(port))
        assert told(ended), (hex(port), ended)


# Twelve ways of access: by in, out, ins and outs, of one, two and four bytes. `make fuzz` takes all of them at every port.
@pytest.mark.parametrize("first", range(12) if os.environ.get("NEXUS_ALL_PORTS") else [0])
def test_every_port_is_closed(attack, first):
    ended = attack("privileged", "ports", str(first), timeout=110)
    assert (ended.status, f"{65535 if first % 3 == 2 else 65536} attempts, 0 wrong" in ended.output) == (0, True), ended


def test_software_interrupts_reach_no_gate(attack):
    for vector in range(256):
        ended = attack("privileged", "int", str(vector))
        assert unharmed(ended), (vector, ended)


@pytest.mark.parametrize("attempt", ["ljmp", "segment", "iret", "iret-stack"])
def test_no_selector_leads_to_cpl_0(attack, attempt):
    for selector in SELECTORS:
        ended = attack("privileged", attempt, hex(selector))
        assert unharmed(ended), (hex(selector), ended)


def test_the_machines_own_pages_do_not_run(attack):
    for place in PLACES:
        ended = attack("privileged", "jump", hex(place))
        assert unharmed(ended), (hex(place), ended)
        assert "nothing happened" not in ended.output, (hex(place), ended)


def test_all_attempts_in_one_guest(attack):
    ended = attack("privileged", "sweep")
    assert (ended.status, " 0 wrong" in ended.output) == (0, True), ended


@pytest.mark.parametrize("what", ["code", "stub", "ports"])
def test_code_that_changes_itself_the_stub_and_ports(attack, what):
    ended = attack("patched", what)
    assert (ended.status, "nothing wrong" in ended.output) == (0, True), ended


@pytest.mark.parametrize("how", range(9))
def test_the_stubs_own_port_is_of_no_use_elsewhere(attack, how):
    ended = attack("patched", "own-port", str(how))
    # A call that is served as any; a fault that the program is told of, or that it ends by.
    assert ended.status in {0, 128 + signal.SIGSEGV}, ended
