"""Ranges coming in: from the socket into buffers, hashed there, and given away to be written.

A piece of up to 1 MiB is written only once it is verified; a longer one is hashed and
written in steps of 1 MiB, and counts when its last step fits its hash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import blake3

from p2pd.errors import ProtocolError
from p2pd.fetch.picker import Run
from p2pd.memory import pages
from p2pd.model import Manifest
from p2pd.wire.messages import Data

STEP = 1024 * 1024
LEAST = 64 * 1024
_DISCARDED = memoryview(bytearray(64 * 1024))


class Buffer:
    """Memory of a pool, to which it goes back when the last who uses it drops it."""

    def __init__(self, pool: BufferPool, size: int) -> None:
        self.view = pages(size)
        self._pool = pool
        self._users = 0

    def hold(self) -> Buffer:
        """One user more."""
        self._users += 1
        return self

    def drop(self) -> None:
        """One user less."""
        self._users -= 1
        if not self._users:
            self._pool.give(self)


class BufferPool:
    """Buffers are used again: fresh memory costs a page fault per 4 KiB. Keeps up to ``keep`` bytes."""

    def __init__(self, keep: int = 12 * STEP) -> None:
        self._free: dict[int, list[Buffer]] = {}
        self._keep = keep
        self._kept = 0

    def take(self, size: int) -> Buffer:
        """A buffer of at least ``size`` bytes, with one user."""
        size = max(LEAST, 1 << (size - 1).bit_length()) if size <= STEP else size
        free = self._free.get(size)
        if not free:
            return Buffer(self, size).hold()
        self._kept -= size
        return free.pop().hold()

    def give(self, buffer: Buffer) -> None:
        """Nobody uses it any more; called by the buffer."""
        size = len(buffer.view)
        if size <= STEP and self._kept + size <= self._keep:
            self._kept += size
            self._free.setdefault(size, []).append(buffer)


class SinkListener(Protocol):
    """Who is told what comes, and writes it; called on the reactor thread."""

    def sink_progressed(self, sink: RangeSink, count: int) -> None:
        """``count`` bytes arrived."""

    def sink_piece(self, sink: RangeSink, piece: int, right: bool) -> bool:
        """A whole piece arrived and was hashed. True: it is to be written, and the sink is not discarded."""

    def sink_write(
        self, offset: int, data: memoryview, pieces: tuple[int, ...], release: Callable[[], None]
    ) -> None:
        """Write ``data`` at ``offset``: with it ``pieces`` are there whole. Then ``release`` its memory."""

    def sink_eager(self, sink: RangeSink) -> bool:
        """True where what can be written should be at once; else :meth:`RangeSink.flush` follows."""


class RangeSink:
    """What a `get` brings: frames in order, cut into pieces.

    ``whole``: a piece is held in memory until it is verified however long it is, for
    pieces on which two sources are.
    """

    def __init__(
        self,
        grant: int,
        run: Run,
        *,
        manifest: Manifest,
        listener: SinkListener,
        pool: BufferPool,
        whole: bool = False,
    ) -> None:
        self.grant = grant
        self.run = run
        self.offset = run.first * manifest.piece_size
        self.length = min(run.end * manifest.piece_size, manifest.size) - self.offset
        self._manifest = manifest
        self._listener = listener
        self._pool = pool
        self._whole = whole
        self._at = self.offset  # the next byte that comes
        self._frame_end = self.offset  # of what headers announced
        self._piece = run.first
        self._piece_left = manifest.length(run.first)
        self._hasher: blake3.blake3 | None = None  # of the steps before this one of a long piece
        self._buffer: Buffer | None = None
        self._base = 0  # where in the file the buffer begins
        self._filled = 0
        self._piece_from = 0  # where in the buffer the piece, or this step of it, begins
        self._unwritten = 0  # up to here the buffer was given away, or is not to be written
        self._ready: list[int] = []  # pieces in the buffer from there to the piece that is coming
        self.dead = False

    @property
    def frame_left(self) -> int:
        """Bytes of the frame that is coming in."""
        return self._frame_end - self._at

    @property
    def finished(self) -> bool:
        """True when the whole range has come."""
        return self._at == self.offset + self.length

    def frame(self, header: Data) -> None:
        """A frame is announced. ProtocolError where it is not the next one of this range."""
        if self._at != self._frame_end or header.offset != self._at:
            raise ProtocolError(f"data: offset: {self._at} was next, not {header.offset}")
        if header.length > self.offset + self.length - self._at:
            raise ProtocolError("data: length: more than was asked for")
        self._frame_end = self._at + header.length

    def discard(self) -> None:
        """What still comes does not count; whole pieces that came are written."""
        if not self.dead:
            self.dead = True
            self._turn_page(self._piece_from)

    def flush(self) -> None:
        """Give whole pieces away to be written, though there is room for more of them."""
        if self._buffer is not None:
            self._give(self._buffer, self._piece_from)

    def target(self) -> memoryview:
        """Where the next bytes belong: not empty while the range is not finished."""
        if self.dead:
            return _DISCARDED
        if self._buffer is None:
            left = self.offset + self.length - self._at
            size = self._manifest.length(self._piece) if self._whole else min(STEP, left)
            self._buffer = self._pool.take(size)
            self._base = self._at
            self._filled = self._piece_from = self._unwritten = 0
        room = len(self._buffer.view) - self._filled
        return self._buffer.view[self._filled : self._filled + min(room, self._piece_left)]

    def received(self, count: int) -> None:
        """``count`` bytes are in the target."""
        self._at += count
        self._listener.sink_progressed(self, count)
        if self.dead or self._buffer is None:
            return
        self._filled += count
        self._piece_left -= count
        if not self._piece_left:
            self._piece_ended(self._buffer)
        elif self._filled == len(self._buffer.view):
            self._hasher = self._hasher or blake3.blake3()
            self._hasher.update(self._buffer.view[self._piece_from :])
            self._turn_page(self._filled)

    def _piece_ended(self, buffer: Buffer) -> None:
        chunk = buffer.view[self._piece_from : self._filled]
        hasher, self._hasher = self._hasher or blake3.blake3(), None
        hasher.update(chunk)
        piece = self._piece
        right = hasher.digest() == self._manifest.hash_of(piece)
        if not self.finished:
            self._piece += 1
            self._piece_left = self._manifest.length(self._piece)
        accepted = self._listener.sink_piece(self, piece, right)
        if self.dead:
            return
        if accepted:
            self._ready.append(piece)
        else:
            self._give(buffer, self._piece_from)
            self._unwritten = self._filled
        self._piece_from = self._filled
        room = len(buffer.view) - self._filled
        if self.finished or room < min(self._piece_left, len(buffer.view)):
            self._turn_page(self._filled)
        elif self._listener.sink_eager(self):
            self._give(buffer, self._filled)

    def _turn_page(self, end: int) -> None:
        """Give away what is in the buffer before ``end``; what comes next goes into another."""
        if self._buffer is not None:
            buffer, self._buffer = self._buffer, None
            self._give(buffer, end)
            buffer.drop()

    def _give(self, buffer: Buffer, end: int) -> None:
        if end <= self._unwritten:
            return
        start, self._unwritten = self._unwritten, end
        pieces, self._ready = tuple(self._ready), []
        self._listener.sink_write(self._base + start, buffer.view[start:end], pieces, buffer.hold().drop)
