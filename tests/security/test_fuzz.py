"""Random but plausible system calls on several threads while another one rewrites what they point to (`make fuzz` runs longer)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from framework.cli import run

pytestmark = pytest.mark.kvm

_SIGNATURES = Path(__file__).parent.parent / "programs" / "hostile" / "signatures.h"
# Rounds that once found something, and a few more.
_SEEDS = [int(line) for line in (Path(__file__).parent / "seeds.txt").read_text().split("\n") if line.isdigit()]


def _listed() -> set[int]:
    text = _SIGNATURES.read_text()
    left_out = re.search(r"#define LEFT_OUT \{(.*)\}", text)
    assert left_out is not None
    numbers = re.findall(r'\{(\d+), "', text) + left_out[1].split(",")
    return {int(number) for number in numbers}


def test_every_call_of_the_table_is_tried() -> None:
    calls = json.loads(run("doctor", "--syscalls", "--json").stdout)
    served = {call["number"]: call["name"] for call in calls if call["state"] != "unserved"}
    assert {name for number, name in served.items() if number not in _listed()} == set(), "give them a line in signatures.h"


def _sound(ended) -> int:
    """The calls of a round that ended in order. A guest may end itself; nothing may end its hypervisor."""
    assert "panicked" not in ended.output, ended
    assert "nexus-vmm:" not in ended.output, ended
    assert ended.status in {0, 3}, ended
    return int(ended.output.strip().splitlines()[-1].split()[0])


def test_each_call_while_what_it_points_to_is_rewritten(attack):
    calls = _sound(attack("fuzz", "sweep", "7", "20", timeout=100))
    assert calls >= 20 * (len(_listed()) - 20), "some call was never answered"


@pytest.mark.parametrize("seed", _SEEDS)
def test_random_calls_on_four_threads(attack, seed):
    assert _sound(attack("fuzz", str(seed), "2", "4")) > 100
