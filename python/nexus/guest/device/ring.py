"""The two rings, seen from the guest: it produces submissions and consumes completions.

An index is stored as one aligned 32-bit store (a `memoryview` cast to `I`), after the entry it publishes. x86-64
keeps stores in order, and so does CPython, which runs each of them as a bytecode of its own.
"""

import struct
from mmap import mmap
from typing import NamedTuple

from .. import abi
from .errors import DeviceUnavailableError

# Field by field as in abi.SUBMISSION_* and abi.COMPLETION_*; tests/guest checks both against the offsets there.
SUBMISSION = struct.Struct("<QHHIIIIIIIQ16x")
COMPLETION = struct.Struct("<QiIIIIIQQ16x")
_HEADER = struct.Struct("<QII")
_MASK = abi.RING_ENTRIES - 1
_WRAP = 0xFFFFFFFF
_SUBMIT_TAIL = abi.CONTROL_SUBMIT_TAIL // 4
_COMPLETE_TAIL = abi.CONTROL_COMPLETE_TAIL // 4
_COMPLETE_HEAD = abi.CONTROL_COMPLETE_HEAD // 4
_HELD_UNTIL = abi.CONTROL_HELD_UNTIL // 4


class Completion(NamedTuple):
    """One entry of the completion ring; offsets and lengths in bytes."""

    id: int
    status: int
    flags: int
    head_offset: int
    head_length: int
    body_offset: int
    body_length: int
    stream: int
    total_length: int


class Rings:
    """Submission and completion ring of one arena. Not thread safe: the channel locks."""

    __slots__ = ("_arena", "_control")

    def __init__(self, arena: mmap) -> None:
        self._arena = arena
        self._control = memoryview(arena)[: abi.SUBMIT_RING].cast("I")
        self.attach()

    def attach(self) -> None:
        """Check the arena's header: at start, and after a restore (a fresh arena)."""
        magic, version, size = _HEADER.unpack_from(self._arena, abi.CONTROL_MAGIC)
        if magic != abi.MAGIC or version != abi.VERSION or size != len(self._arena):
            raise DeviceUnavailableError(
                f"arena of {len(self._arena)} bytes has magic {magic:#x}, version {version}, size {size}; "
                f"this runtime speaks version {abi.VERSION}: use the runtime that came with the node"
            )

    @property
    def held_until(self) -> int:
        """What the hypervisor is told of the heap: from where on it holds nothing. 0 once that memory was given back."""
        return self._control[_HELD_UNTIL]

    @held_until.setter
    def held_until(self, offset: int) -> None:
        self._control[_HELD_UNTIL] = offset

    def submit(self, *fields: int) -> None:
        """Publish one submission; `fields` in the order of the entry, without the reserved bytes."""
        tail = self._control[_SUBMIT_TAIL]
        SUBMISSION.pack_into(self._arena, abi.SUBMIT_RING + (tail & _MASK) * abi.ENTRY_SIZE, *fields)
        self._control[_SUBMIT_TAIL] = (tail + 1) & _WRAP

    def take(self) -> Completion | None:
        """The next completion, or None."""
        head = self._control[_COMPLETE_HEAD]
        if self._control[_COMPLETE_TAIL] == head:
            return None
        entry = COMPLETION.unpack_from(self._arena, abi.COMPLETE_RING + (head & _MASK) * abi.ENTRY_SIZE)
        self._control[_COMPLETE_HEAD] = (head + 1) & _WRAP
        return Completion._make(entry)
