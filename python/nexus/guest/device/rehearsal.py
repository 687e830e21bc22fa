"""A transport whose other side is a function in the same process: for rehearsing before the snapshot, and measuring."""

import mmap
import struct
from collections.abc import Callable

from .. import abi
from .ring import COMPLETION, SUBMISSION

# Operation and head in; status, head and body out.
Answer = Callable[[int, bytes], tuple[int, bytes, bytes]]
_MASK = abi.RING_ENTRIES - 1


class RehearsalTransport:
    """Completes every submission at the doorbell, with what `answer` says. Bodies must fit into the room."""

    clones = False
    device: int | None = None

    def __init__(self, answer: Answer, size: int = abi.MIN_SIZE) -> None:
        self.arena = mmap.mmap(-1, size)
        struct.pack_into("<QII", self.arena, abi.CONTROL_MAGIC, abi.MAGIC, abi.VERSION, size)
        self._answer = answer
        self._control = memoryview(self.arena)[: abi.SUBMIT_RING].cast("I")
        self._taken = 0

    def read(self, offset: int, length: int) -> bytes:
        return self.arena[offset : offset + length]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> int:
        size = memoryview(data).nbytes
        self.arena[offset : offset + size] = data
        return size

    def ring(self) -> None:
        while self._taken != self._control[abi.CONTROL_SUBMIT_TAIL // 4]:
            slot = self._taken & _MASK
            entry = SUBMISSION.unpack_from(self.arena, abi.SUBMIT_RING + slot * abi.ENTRY_SIZE)
            head_at, head_length, room = entry[3], entry[4], entry[7]
            status, head, body = self._answer(entry[1], self.arena[head_at : head_at + head_length])
            self.arena[room : room + len(head)] = head
            start = room + ((len(head) + abi.BODY_ALIGNMENT - 1) & -abi.BODY_ALIGNMENT)
            self.arena[start : start + len(body)] = body
            COMPLETION.pack_into(
                self.arena,
                abi.COMPLETE_RING + slot * abi.ENTRY_SIZE,
                entry[0],
                status,
                0,
                room if head else 0,
                len(head),
                start if body else 0,
                len(body),
                0,
                len(body),
            )
            self._taken = (self._taken + 1) & 0xFFFFFFFF
            self._control[abi.CONTROL_COMPLETE_TAIL // 4] = self._taken

    def ring_and_wait(self) -> None:
        self.ring()

    def wait(self, timeout_ms: int) -> bool:
        return True

    def snapshot(self) -> int:
        return 0

    def renewed(self) -> None:
        pass

    def generation(self) -> int:
        return 0
