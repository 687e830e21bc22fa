"""Attempts at the hypervisor by system calls: wild, straddling and racing pointers, rubbish state, exhaustion."""

import pytest

pytestmark = pytest.mark.kvm


def test_wild_pointers_to_every_call(attack):
    ended = attack("pointers", timeout=100)
    assert ended.status == 0, ended
    assert "calls answered" in ended.output


def test_structures_that_end_in_a_hole(attack):
    ended = attack("straddle")
    assert (ended.status, "no call went beyond" in ended.output) == (0, True), ended


def test_what_a_call_reads_is_rewritten_meanwhile(attack, tmp_path):
    (tmp_path / "secret").write_text("SECRET")
    ended = attack("racing", str(tmp_path / "secret"))
    assert ended.status == 0, ended
    assert "none of them outside" in ended.output


@pytest.mark.parametrize("what", ["sigreturn", "sigreturn-hole", "frame", "no-stack", "base"])
def test_rubbish_state_ends_the_guest_by_a_signal(attack, what):
    assert attack("frames", what).status == 128 + 11


@pytest.mark.parametrize("what", ["clone", "storm"])
def test_rubbish_threads_and_signals_harm_nobody(attack, what):
    ended = attack("frames", what)
    assert ended.in_order, ended
    assert ended.status != 93, ended


# With what is left at the limit: the error that Linux gives.
LIMITS = {
    **dict.fromkeys(["files", "roots", "pipes", "events", "epolls", "timers"], "Too many open files"),
    "memfds": "",
    "threads": "Resource temporarily unavailable",
    "mappings": "Cannot allocate memory",
    "address-space": "Cannot allocate memory",
    "disk": "No space left on device",
    "names": "No space left on device",
    "depth": "",
}


@pytest.mark.parametrize("what", LIMITS)
def test_taking_all_of_it_meets_a_limit_and_goes_on(attack, what):
    ended = attack("exhaust", what)
    assert ended.status == 0, ended
    assert LIMITS[what] in ended.output
    assert "goes on" in ended.output


@pytest.mark.parametrize("what", ["memory", "heap"])
def test_memory_ends_at_its_limit(attack, what):
    ended = attack("exhaust", what)
    assert ended.in_order, ended
    assert ended.status != 94, "64 GiB were touched"
    if ended.status == 0:
        assert int(ended.output.split(": ")[1].split(",")[0]) <= 256


def test_no_socket_and_no_process(attack):
    ended = attack("sockets")
    assert (ended.status, "attempts refused" in ended.output) == (0, True), ended
