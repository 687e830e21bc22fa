"""abi.py is what the ABI crate says, and the rings' formats are what abi.py says."""

import re
import struct
from pathlib import Path

from nexus.guest import abi
from nexus.guest.device.ring import COMPLETION, SUBMISSION

CRATE = Path(__file__).parents[2] / "crates" / "nexus-abi" / "src"


def constants() -> dict[str, object]:
    """Every constant of the crate, named as abi.py names it."""
    found: dict[str, object] = {}
    for file in ("arena", "operation", "device"):
        prefix = ""
        for line in (CRATE / f"{file}.rs").read_text(encoding="utf-8").splitlines():
            if module := re.match(r"pub mod (\w+)", line):
                prefix = module[1].upper() + "_"
            elif line == "}":
                prefix = ""
            elif match := re.match(r"\s*pub const (\w+): [^=]+ = (.+);", line):
                name = {"PATH": "DEVICE_PATH"}.get(match[1], match[1])
                found[prefix + name] = value(match[2])
    return found


def value(text: str) -> object:
    if text == 'u64::from_le_bytes(*b"NEXUSARN")':
        return int.from_bytes(b"NEXUSARN", "little")
    if text == "u64::MAX":
        return 2**64 - 1
    return eval(text, {})


def test_abi_is_up_to_date():
    ours = {name: item for name, item in vars(abi).items() if name.isupper()}
    assert ours == constants()


def offsets(layout: struct.Struct) -> list[int]:
    fields = re.findall(r"(\d*)([A-Za-z])", layout.format)
    found, at = [], 0
    for count, code in fields:
        for _ in range(int(count or 1) if code != "x" else 1):
            found.append(at)
            at += struct.calcsize(f"<{count if code == 'x' else ''}{code}")
    assert at == abi.ENTRY_SIZE == layout.size
    return found


def test_entries_have_the_documented_layout():
    names = (
        "ID OPERATION FLAGS HEAD_OFFSET HEAD_LENGTH BODY_OFFSET BODY_LENGTH ROOM_OFFSET ROOM_LENGTH TIMEOUT_MS STREAM RESERVED"
    )
    assert offsets(SUBMISSION) == [getattr(abi, f"SUBMISSION_{name}") for name in names.split()]
    names = "ID STATUS FLAGS HEAD_OFFSET HEAD_LENGTH BODY_OFFSET BODY_LENGTH STREAM TOTAL_LENGTH"
    assert offsets(COMPLETION)[:9] == [getattr(abi, f"COMPLETION_{name}") for name in names.split()]
