"""The system call table as users and readers see it."""

from __future__ import annotations

import json
from pathlib import Path

from framework.cli import run

_PAGE = Path(__file__).parents[2] / "docs" / "syscalls.md"


def test_the_page_is_what_the_hypervisor_says_today() -> None:
    from nexus.doctor.syscalls import markdown, table

    assert _PAGE.read_text() == markdown(table()), "run `make docs`"


def test_doctor_shows_every_call_once_with_its_reason() -> None:
    calls = json.loads(run("doctor", "--syscalls", "--json").stdout)
    numbers = [call["number"] for call in calls]
    assert numbers == sorted(set(numbers))
    by_name = {call["name"]: call for call in calls}
    assert by_name["read"] == {"number": 0, "name": "read", "family": "io", "state": "full", "reason": ""}
    assert by_name["ptrace"]["state"] == "unserved"
    assert all(call["reason"] for call in calls if call["state"] != "full")
    assert all(call["family"] for call in calls if call["state"] != "unserved")


def test_doctor_shows_a_table() -> None:
    lines = run("doctor", "--syscalls").stdout.splitlines()
    assert any(line.split()[:4] == ["9", "mmap", "partial", "memory"] for line in lines)
