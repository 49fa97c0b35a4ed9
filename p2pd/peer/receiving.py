"""Ranges coming in: from the socket into one buffer, hashed there, then written.

A piece of up to 1 MiB is written once it is verified; a longer one is hashed and
written in steps of 1 MiB, and counts when its last step fits its hash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import blake3

from p2pd.errors import ProtocolError, StorageError
from p2pd.fetch.picker import Run
from p2pd.model import Manifest
from p2pd.wire.messages import Data

STEP = 1024 * 1024
_DISCARDED = memoryview(bytearray(64 * 1024))


class BufferPool:
    """Buffers are used again: fresh memory costs a page fault per 4 KiB. Keeps up to ``keep``."""

    def __init__(self, keep: int = 8) -> None:
        self._free: list[bytearray] = []
        self._keep = keep

    def take(self, size: int) -> bytearray:
        """A buffer of at least ``size`` bytes."""
        if size <= STEP:
            return self._free.pop() if self._free else bytearray(STEP)
        return bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Done with it."""
        if len(buffer) == STEP and len(self._free) < self._keep:
            self._free.append(buffer)


class SinkListener(Protocol):
    """Who is told what comes; called on the reactor thread."""

    def sink_progressed(self, sink: RangeSink, count: int) -> None:
        """``count`` bytes arrived."""

    def sink_piece(self, sink: RangeSink, piece: int, right: bool) -> None:
        """A whole piece arrived and was hashed; if right, it is written."""

    def sink_failed(self, sink: RangeSink, error: StorageError) -> None:
        """It could not be written; the sink takes nothing more."""


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
        write: Callable[[int, memoryview], None],
        listener: SinkListener,
        pool: BufferPool,
        whole: bool = False,
    ) -> None:
        self.grant = grant
        self.run = run
        self.offset = run.first * manifest.piece_size
        self.length = min(run.end * manifest.piece_size, manifest.size) - self.offset
        self._manifest = manifest
        self._write = write
        self._listener = listener
        self._pool = pool
        self._whole = whole
        self._at = self.offset  # the next byte that comes
        self._frame_end = self.offset  # of what headers announced
        self._piece = run.first
        self._piece_left = manifest.length(run.first)
        self._hasher: blake3.blake3 | None = None
        self._buffer: bytearray | None = None
        self._view = memoryview(b"")
        self._filled = 0
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
        """What still comes does not count."""
        self.dead = True
        if self._buffer is not None:
            self._pool.give(self._buffer)
            self._buffer = None

    def target(self) -> memoryview:
        """Where the next bytes belong: not empty while the range is not finished."""
        if self.dead:
            return _DISCARDED
        if self._buffer is None:
            size = self._manifest.length(self._piece) if self._whole else STEP
            self._buffer = self._pool.take(size)
            self._view = memoryview(self._buffer)
        room = len(self._view) - self._filled
        return self._view[self._filled : self._filled + min(room, self._piece_left)]

    def received(self, count: int) -> None:
        """``count`` bytes are in the target."""
        self._at += count
        self._listener.sink_progressed(self, count)
        if self.dead:
            return
        self._filled += count
        self._piece_left -= count
        if not self._piece_left or self._filled == len(self._view):
            self._flush()
        if self.finished and self._buffer is not None:
            self._pool.give(self._buffer)
            self._buffer = None

    def _flush(self) -> None:
        chunk = self._view[: self._filled]
        ended = not self._piece_left
        start = self._at - self._filled
        self._filled = 0
        wanted = self._manifest.hash_of(self._piece)
        if ended and self._hasher is None:
            right = blake3.blake3(chunk).digest() == wanted
            if right:
                self._put(start, chunk)
        else:
            if self._hasher is None:
                self._hasher = blake3.blake3()
            self._hasher.update(chunk)
            self._put(start, chunk)
            if not ended:
                return
            right = self._hasher.digest() == wanted
            self._hasher = None
        if self.dead:
            return
        piece = self._piece
        if not self.finished:
            self._piece += 1
            self._piece_left = self._manifest.length(self._piece)
        self._listener.sink_piece(self, piece, right)

    def _put(self, offset: int, chunk: memoryview) -> None:
        try:
            self._write(offset, chunk)
        except StorageError as error:
            self.discard()
            self._listener.sink_failed(self, error)
