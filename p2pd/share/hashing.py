"""Manifests of files: hashed in steps that can be cancelled. Blocking; all of it is for threads."""

from __future__ import annotations

import os
from collections.abc import Callable

import attrs
import blake3

from p2pd.errors import ChangedError
from p2pd.memory import pages
from p2pd.model import Manifest, check_dimensions
from p2pd.pieces import FEW_PIECES, MAX_PIECES, MIN_PIECE, default_piece_size, piece_count
from p2pd.share.paths import storage_error

STEP = 4 * 1024 * 1024
"""Bytes read and hashed between two looks at whether to go on; well under a second on any disk."""

_SMALL = 2 * MIN_PIECE * FEW_PIECES


class Cancelled(Exception):
    """The hashing was called off."""


StatRow = tuple[int, int, int, int, int]
"""A StatKey as it is kept by the 100,000: the garbage collector does not look at plain tuples of
numbers again, where as many objects of a class would stop the daemon for 0.1 s now and then."""


@attrs.frozen
class StatKey:
    """What a file's content is known by: where any of it differs, the file is hashed again.

    The ctime is in it because nobody can set that one back.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, result: os.stat_result) -> StatKey:
        """The key of a file with this stat."""
        return cls(*stat_row(result))

    @property
    def row(self) -> StatRow:
        """The same as a plain tuple."""
        return self.device, self.inode, self.size, self.mtime_ns, self.ctime_ns


def stat_row(result: os.stat_result) -> StatRow:
    """What a StatKey is made of."""
    return result.st_dev, result.st_ino, result.st_size, result.st_mtime_ns, result.st_ctime_ns


def usual_piece_size(size: int, configured: int | None) -> int:
    """The piece size of a file without a manifest of its own: the configured one where that fits."""
    if configured is not None and piece_count(size, configured) <= MAX_PIECES:
        return configured
    if size < _SMALL:  # what default_piece_size gives too, without the arithmetic: scans ask 100,000 times
        return MIN_PIECE
    return default_piece_size(size)


class HashRun:
    """The hashing of one file, which can be left after any step and taken up by another thread."""

    def __init__(self, size: int, piece_size: int) -> None:
        """ValueError where no manifest of these dimensions can be."""
        check_dimensions(size, piece_size)
        self.size = size
        self.piece_size = piece_size
        self.done = 0
        self._hashes = bytearray()
        self._piece = blake3.blake3()  # of the piece that a step ended in, where pieces are larger
        self._in_piece = 0

    @property
    def finished(self) -> bool:
        """True when every byte was hashed."""
        return self.done == self.size

    def step(self, fd: int, buffer: bytearray | memoryview) -> None:
        """Hash up to ``len(buffer)`` bytes more; ChangedError where the file ends early."""
        wanted = min(len(buffer), self.size - self.done)
        if self.piece_size <= wanted < self.size - self.done:
            wanted -= wanted % self.piece_size  # small pieces whole, so that none is hashed in parts
        view = memoryview(buffer)[:wanted]
        have = 0
        while have < wanted:
            try:
                count = os.preadv(fd, [view[have:]], self.done + have)
            except OSError as error:
                raise storage_error(error, "cannot read a shared file") from error
            if count == 0:
                raise ChangedError("the file became shorter while it was hashed")
            have += count
        at = 0
        while at < wanted:
            end = min(at + self.piece_size - self._in_piece, wanted)
            self._piece.update(view[at:end])
            self._in_piece += end - at
            at = end
            if self._in_piece == self.piece_size or self.done + at == self.size:
                self._hashes += self._piece.digest()
                self._piece.reset()
                self._in_piece = 0
        self.done += wanted

    def manifest(self) -> Manifest:
        """The manifest of a finished run."""
        return Manifest(self.size, self.piece_size, bytes(self._hashes))


def hash_file(
    fd: int,
    size: int,
    piece_size: int,
    *,
    progress: Callable[[int], None],
    cancelled: Callable[[], bool],
) -> Manifest:
    """Hash ``size`` bytes of ``fd``; ``progress`` is told the bytes done after every step.

    Raises Cancelled, ChangedError where the file is shorter, StorageError, or ValueError
    where a file of this size cannot have such pieces. What is beyond ``size`` is not looked at.
    """
    run = HashRun(size, piece_size)
    buffer = pages(min(STEP, size))
    while not run.finished:
        if cancelled():
            raise Cancelled
        run.step(fd, buffer)
        progress(run.done)
    return run.manifest()
