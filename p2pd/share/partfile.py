"""The data of one unfinished file."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import blake3

from p2pd.errors import StorageError
from p2pd.memory import pages
from p2pd.model import Manifest
from p2pd.pieces import Bitfield
from p2pd.share.hashing import STEP, Cancelled
from p2pd.share.job import Job
from p2pd.share.paths import storage_error


class _Store(Protocol):
    def save(self, job: Job, held: Bitfield) -> None: ...
    def finish(self, job: Job, name: str, replace: bool) -> bytes: ...


class PartialFile:
    """Open for reading and writing. Every method blocks."""

    def __init__(self, store: _Store, job: Job, manifest: Manifest, fd: int) -> None:
        """Made by PartialStore.begin."""
        self.job = job
        self.manifest = manifest
        self.fd = fd
        self._store = store
        self._lost = False

    def writev(self, offset: int, views: Sequence[memoryview]) -> None:
        """Write ``views`` one behind the other from ``offset`` on, all of it.

        StorageError (disk full, quota, I/O error).
        """
        if offset < 0 or offset + sum(map(len, views)) > self.manifest.size:
            raise ValueError("beyond the end of the file")
        left = deque(views)
        while left:
            try:
                count = (
                    os.pwritev(self.fd, left, offset)
                    if len(left) > 1
                    else os.pwrite(self.fd, left[0], offset)
                )
            except OSError as error:
                raise storage_error(error, f"cannot write {self.job.target}") from error
            offset += count
            while left and count >= len(left[0]):
                count -= len(left.popleft())
            if count:
                left[0] = left[0][count:]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """As :meth:`writev`."""
        self.writev(offset, [memoryview(data)])

    def save(self, held: Bitfield, job: Job | None = None) -> None:
        """Replace the state on disk: the pieces held, and the job where it is another now. StorageError."""
        if job is not None:
            self.job = job
        self._store.save(self.job, held)

    def rehash(self, held: Bitfield, cancelled: Callable[[], bool] = lambda: False) -> Bitfield:
        """Those of the pieces ``held`` that match the manifest; raises hashing.Cancelled.

        A piece that cannot be read, or is not all there, is not held.
        """
        good = Bitfield(self.manifest.count)
        buffer = pages(min(STEP, self.manifest.piece_size))
        for piece in held:
            hasher = blake3.blake3()
            at = piece * self.manifest.piece_size
            end = at + self.manifest.length(piece)
            while at < end:
                if cancelled():
                    raise Cancelled
                try:
                    count = os.preadv(self.fd, [buffer[: min(end - at, len(buffer))]], at)
                except OSError:  # a bad block: fetched again
                    break
                if count == 0:
                    break
                hasher.update(buffer[:count])
                at += count
            if at == end and hasher.digest() == self.manifest.hash_of(piece):
                good.add(piece)
        return good

    def digest(self, algorithm: str = "sha256", cancelled: Callable[[], bool] = lambda: False) -> str:
        """Hex digest of the whole file, by hashlib's name; StorageError, hashing.Cancelled."""
        hasher = hashlib.new(algorithm)
        buffer = pages(min(STEP, max(self.manifest.size, 1)))
        at = 0
        while at < self.manifest.size:
            if cancelled():
                raise Cancelled
            try:
                count = os.preadv(self.fd, [buffer[: self.manifest.size - at]], at)
            except OSError as error:
                raise storage_error(error, f"cannot read {self.job.target}") from error
            if count == 0:
                raise StorageError(f"the partial file of {self.job.target} became shorter")
            hasher.update(buffer[:count])
            at += count
        return hasher.hexdigest()

    def finish(self, name: str, replace: bool = False) -> None:
        """Bring the data to disk, give the file its name, and forget the transfer.

        ConflictError where something has the name; StorageError. Where the data could not be
        brought to disk, it cannot be finished through this object any more: the kernel would
        claim success the second time. Begin again and rehash.
        """
        if self._lost:
            raise StorageError(f"{name} could not be written to disk and has to be checked again")
        try:
            os.fsync(self.fd)
        except OSError as error:
            self._lost = True
            # The kernel holds what it failed to write for clean: let rehash read what is on disk.
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            raise storage_error(error, f"cannot bring {name} to disk") from error
        self._store.finish(self.job, name, replace)

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
