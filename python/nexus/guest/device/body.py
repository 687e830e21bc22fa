"""A reply's body as a stream: what lies in the room first, then READ by READ.

It holds one part of the heap at a time, and gives that up to whoever needs it (`reclaim`), so unread bodies never
keep others from working.
"""

import io
import weakref
from collections.abc import Callable, Iterator

from .. import abi
from .channel import Channel
from .errors import BackendError
from .heap import aligned
from .mutex import Mutex
from .reply import Reply, call
from .sections import guard

# One READ fetches at most this much (bytes): large enough that its exit does not matter, small enough to stay in cache.
READ_SIZE = 1 << 20
_READ_MIN = 1 << 14

# Turns a stream's error, the bytes that the failing read had got, and the number that are missing (None: unknown)
# into what the caller's SDK would raise.
Translate = Callable[[BackendError, bytes, int | None], BaseException]


def pinned(channel: Channel, start: int, held: int, offset: int, length: int) -> memoryview:
    """A read-only view of the arena that gives `held` bytes at `start` back once no slice of it is left."""
    import ctypes

    channel.pages.view(offset, offset + length)
    array = (ctypes.c_ubyte * length).from_buffer(channel.arena, offset)
    weakref.finalize(array, channel.discard, start, held, 0)
    return memoryview(array).cast("B").toreadonly()


class ArenaBody(io.RawIOBase):
    """A readable, unseekable stream. `error` translates what breaks it."""

    # Where the constructor was interrupted.
    _held = _stream = 0

    def __init__(self, channel: Channel, reply: Reply, error: Translate | None = None):
        self._channel = channel
        self._start = self._offset = reply.body_offset
        self._length = length = reply.body_length
        self._spilled = reply.data
        self._stream = reply.stream if reply.more else 0
        self._position = 0
        self._error = error
        self._guard = Mutex()
        self.total_length = reply.total_length
        reply.body_length = 0  # the heap is ours now
        self._held = aligned(length) if self._spilled is None else 0
        if self._held:
            channel.hold(self)

    # -- the part at hand --------------------------------------------------------------------------------------

    def _part(self) -> memoryview:
        if self._spilled is not None:
            return memoryview(self._spilled)[self._offset : self._offset + self._length]
        return self._channel.pages.view(self._offset, self._offset + self._length)

    def _consume(self, count: int) -> None:
        self._offset += count
        self._length -= count
        self._position += count
        if not self._length:
            self._drop()

    def _drop(self) -> None:
        """Give the part's heap back."""
        self._spilled = None
        held, self._held = self._held, 0
        if held:
            self._channel.let_go(self)
            self._channel.release(self._start, held)

    def reclaim(self) -> tuple[int, int] | None:
        if not self._guard.try_acquire():
            return None
        try:
            if not self._held:
                return None
            self._spilled = bytes(self._part())
            self._offset = 0
            place = (self._start, self._held)
            self._held = 0
            return place
        finally:
            self._guard.release()

    def _fill(self, *, whole: bool = False) -> bool:
        """Fetch the next part if the present one is used up. False at the end; `whole`: an early end is an error."""
        if self._length:
            return True
        if not self._stream:
            return False
        room = self._channel.share(READ_SIZE, _READ_MIN)
        if self.total_length is not None:
            room = min(room, max(self.total_length - self._position, 1))
        stream = self._stream
        try:
            reply = call(self._channel, abi.READ, room_min=min(room, _READ_MIN) + 64, room_max=room + 64, stream=stream)
        except BackendError as error:
            self._stream = 0
            if error.name == "IncompleteReadError" and not whole:
                return False  # sized reads see an early end; the length's keeper notices
            raise
        if not reply.more:
            self._stream = 0
        self._offset = self._start = reply.body_offset
        self._length, reply.body_length = reply.body_length, 0
        self._spilled = reply.data
        self._held = aligned(self._length) if self._spilled is None else 0
        if self._held:
            self._channel.hold(self)
        return self._length > 0 or self._fill(whole=whole)

    # -- io.RawIOBase ------------------------------------------------------------------------------------------

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    @property
    def at_hand(self) -> int:
        """Bytes that a read gets without waiting."""
        return self._length

    def read1(self) -> bytes:
        """The part at hand, or the next one; empty at the end."""
        with guard, self._guard:
            try:
                if self.closed or not self._fill():
                    return b""
            except BackendError as error:
                raise self._translated(error, b"") from None
            part = bytes(self._part())
            self._consume(self._length)
            return part

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes; all that is left where it is None or negative."""
        with guard:
            if size is None or size < 0:
                if self._length and not self._stream and self._guard.try_acquire():
                    return self._read_at_hand()
                if self._stream and self.total_length is not None and not self.closed:
                    return self._read_rest(self.total_length - self._position)
            parts: list[bytes] = []
            try:
                return self._read(size, parts)
            except BackendError as error:
                raise self._translated(error, b"".join(parts)) from None

    def _read_at_hand(self) -> bytes:
        """All that is left, which is at hand. Under the guard, which is given back."""
        try:
            begin, end = self._offset, self._offset + self._length
            data = self._channel.pages.copy(begin, end) if self._spilled is None else self._spilled[begin:end]
            if data:
                self._consume(end - begin)
            return data
        finally:
            self._guard.release()

    def _read_rest(self, length: int) -> bytes:
        """All that is left, `length` bytes if the stream does not break: each byte is copied once, to its place.

        BytesIO is the one buffer that becomes bytes without a copy. Made in its whole size, it never moves.
        """
        with self._guard, io.BytesIO() as buffer:
            if length > 0:
                buffer.seek(length - 1)
                buffer.write(b"\0")
                buffer.seek(0)
            try:
                while self._fill(whole=True):
                    buffer.write(self._part())
                    self._consume(self._length)
            except BackendError as error:
                buffer.truncate()
                raise self._translated(error, buffer.getvalue()) from None
            buffer.truncate()
            return buffer.getvalue()

    def _translated(self, error: BackendError, partial: bytes) -> BaseException:
        """`error` as the caller's SDK would raise it."""
        missing = None if self.total_length is None else self.total_length - self._position
        return self._error(error, partial, missing) if self._error else error

    def _read(self, size: int | None, parts: list[bytes]) -> bytes:
        if self.closed:
            return b""
        with self._guard:
            whole = size is None or size < 0
            wanted = 0 if size is None else size
            if not whole and not wanted:
                return b""
            while (whole or wanted) and self._fill(whole=whole):
                count = self._length if whole else min(wanted, self._length)
                parts.append(bytes(self._part()[:count]))
                self._consume(count)
                wanted -= count
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill `buffer` as far as the part at hand reaches."""
        if self.closed:
            return 0
        with guard, self._guard, memoryview(buffer).cast("B") as target:
            try:
                if not len(target) or not self._fill():
                    return 0
            except BackendError as error:
                raise self._translated(error, b"") from None
            count = min(len(target), self._length)
            target[:count] = self._part()[:count]
            self._consume(count)
            return count

    def getbuffer(self) -> memoryview:
        """All that is left, read-only, without a copy where it lies in the arena in one piece.

        The view keeps its part of the arena as long as it or a slice of it lives, whatever becomes of the stream.
        """
        with guard, self._guard:
            if self._spilled is not None and not self._stream:
                view = memoryview(self._spilled)[self._offset : self._offset + self._length]
                self._consume(self._length)
                return view
            if self._stream or not self._held:
                return memoryview(b"".join(self._parts()))
            view = pinned(self._channel, self._start, self._held, self._offset, self._length)
            self._channel.let_go(self)
            self._held = 0
            self._consume(self._length)
            return view

    def _parts(self) -> Iterator[bytes]:
        while self._fill():
            yield bytes(self._part())
            self._consume(self._length)

    def stream(self, amt: int = 1 << 16, decode_content: bool | None = None) -> Iterator[bytes]:
        """The rest, in pieces of up to `amt` bytes: as urllib3's responses give it."""
        while chunk := self.read(amt):
            yield chunk

    def release_conn(self) -> None:
        """Nothing: connections are the host's."""

    def close(self) -> None:
        """Give up what is unread."""
        if self.closed:
            return
        with guard:
            with self._guard:
                self._length = 0
                self._drop()
                stream, self._stream = self._stream, 0
            if stream:
                self._channel.post(abi.CLOSE, stream=stream)
            super().close()

    def __del__(self) -> None:
        # Also called by the collector, inside any allocation: no locks here.
        if self._held or self._stream:
            self._channel.discard(self._start, self._held, self._stream)
            self._held = self._stream = 0
        self._length = 0
