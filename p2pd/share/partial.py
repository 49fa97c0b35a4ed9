"""Unfinished files: a hidden folder in the share with data, manifest and state of every transfer.

A kill at any point leaves either a job that can be resumed or the finished file. The order
in which a file is finished: data to disk, note that it is about to be renamed, rename, folder
to disk, and only then the job's own files are removed, the state first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import threading

import attrs

from p2pd.errors import NotFoundError, RefusedError, StorageError
from p2pd.model import Manifest, TransferId
from p2pd.pieces import MAX_PIECES, Bitfield, format_runs, parse_runs
from p2pd.share.job import Job, Stored, dump_job, parse_job
from p2pd.share.partfile import PartialFile
from p2pd.share.paths import ShareRoot, storage_error

__all__ = ["FOLDER", "Job", "PartialFile", "PartialStore"]

FOLDER = ".p2pd"
_OURS = re.compile(r"([0-9a-f]{12})\.(part|manifest|state)(\.tmp)?", re.ASCII)
_MAX_STATE = 16 * 1024 * 1024
_MAX_MANIFEST = 16 + 32 * MAX_PIECES
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PartialStore:
    """The unfinished files of one share. Every method blocks; they may be called from several threads."""

    def __init__(self, root: ShareRoot) -> None:
        """Touches nothing yet: a share that is read-only can still be served."""
        self.root = root
        self.problems: list[str] = []
        self.renamed: list[tuple[str, Manifest]] = []
        """What :meth:`load` found to have got its name, with the manifest that it came with."""
        self._fd = -1
        self._lock = threading.RLock()
        self._pieces: dict[TransferId, str] = {}
        self._ended: set[TransferId] = set()

    def close(self) -> None:
        """Give the folder's descriptor back."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def load(self) -> list[tuple[Job, Manifest | None, Bitfield]]:
        """All jobs, with the manifest where it is intact and the pieces that the state names.

        These pieces are claims until :meth:`PartialFile.rehash` has looked. What is no good is
        removed, with a sentence in ``problems``; so are files that belong to no job, and jobs
        whose file got its name already. StorageError where the folder cannot be read.
        """
        with self._lock:
            self.problems, self.renamed = [], []
            try:
                fd = self._folder(create=False)
            except NotFoundError:
                return []
            except RefusedError as error:
                self.problems.append(f"{error}.")
                return []
            try:
                names = sorted(os.listdir(fd))
            except OSError as error:
                raise storage_error(error, f"cannot list {FOLDER}") from error
            jobs = []
            alive = set()
            for name in names:
                match = _OURS.fullmatch(name)
                if match and name.endswith(".state"):
                    loaded = self._load(TransferId(match[1]))
                    if loaded is not None:
                        jobs.append(loaded)
                        alive.add(match[1])
            for name in names:
                match = _OURS.fullmatch(name)
                if match and (match[1] not in alive or match[3]):
                    self._remove(name)
            return jobs

    def save_job(self, job: Job) -> None:
        """Write the state of a job so that it survives a power loss; StorageError."""
        self._write_state(job, durable=True)

    def begin(self, job: Job, manifest: Manifest) -> PartialFile:
        """Open the partial file, made where it is missing, as large as the file and without holes filled.

        StorageError also where there is no room for what is to come. The job is saved with
        the file's id and sizes; see ``job`` of what is returned.
        """
        with self._lock:
            folder = self._folder()
            ready = attrs.evolve(
                job, file_id=manifest.file_id, size=manifest.size, piece_size=manifest.piece_size
            )
            part = f"{job.transfer}.part"
            self._check_room(folder, part, job.target, manifest.size)
            if self._read_manifest(ready) != manifest:  # of another content: what was held is of no use
                self._pieces.pop(job.transfer, None)
            self._write(f"{job.transfer}.manifest", dump_manifest(manifest), durable=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                fd = os.open(part, flags, 0o666, dir_fd=folder)
                try:
                    if not stat.S_ISREG(os.fstat(fd).st_mode):
                        raise StorageError(f"{FOLDER}/{part} is no regular file")
                    os.ftruncate(fd, manifest.size)
                except BaseException:
                    os.close(fd)
                    raise
            except OSError as error:
                raise storage_error(error, f"cannot make the partial file of {job.target}") from error
            partial = PartialFile(self, ready, manifest, fd)
        self._write_state(ready, durable=True)
        return partial

    def discard(self, transfer: TransferId) -> None:
        """Remove everything of a transfer, the state first; later saves of it do nothing."""
        with self._lock:
            self._ended.add(transfer)
            self._pieces.pop(transfer, None)
            with contextlib.suppress(NotFoundError):
                self._folder(create=False)
                for kind in ("state", "manifest", "part", "state.tmp", "manifest.tmp"):
                    self._remove(f"{transfer}.{kind}")

    # -- for PartialFile

    def save(self, job: Job, held: Bitfield) -> None:
        """Replace the state, naming the pieces held; a power loss may bring the one before back."""
        with self._lock:
            self._pieces[job.transfer] = format_runs(held.runs())
            self._write_state(job, durable=False)

    def finish(self, job: Job, name: str, replace: bool) -> bytes:
        """Give the data, which is on disk, its name; returns the path on disk as bytes.

        State and manifest stay until :meth:`discard`: until the manifest is kept elsewhere.
        """
        with self._lock:
            ready = attrs.evolve(job, output=name)
            self._write_state(ready, durable=True, finishing=True)
            rel = self.root.rename_into(self._folder(), f"{job.transfer}.part".encode(), name, replace)
            self._ended.add(job.transfer)  # a save that comes late must not make it a job again
            return rel

    # -- inside

    def _folder(self, create: bool = True) -> int:
        if self._fd < 0:
            if create:
                try:
                    os.mkdir(FOLDER, 0o700, dir_fd=self.root.fd)
                except FileExistsError:
                    pass
                except OSError as error:
                    raise storage_error(error, f"cannot make {FOLDER} in the share") from error
            try:
                self._fd = self.root.open_folder(FOLDER.encode())
            except NotFoundError:
                if create or os.path.lexists(f"{self.root.path}/{FOLDER}"):
                    raise StorageError(f"{FOLDER} in the share is no folder") from None
                raise
            self._lock_folder()
            if create:
                with contextlib.suppress(OSError):
                    fd = self.root.open_folder(b"")
                    try:
                        os.fsync(fd)
                    finally:
                        os.close(fd)
        return self._fd

    def _lock_folder(self) -> None:
        """RefusedError where another daemon shares this folder and fetches into it: they would mix."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                return  # a file system without locks
            self.close()
            raise RefusedError(f"another daemon fetches into {self.root.path}") from None

    def _check_room(self, folder: int, part: str, target: str, size: int) -> None:
        try:
            room = os.fstatvfs(folder)
        except OSError as error:
            raise storage_error(error, "cannot see how much room there is") from error
        taken = 0
        with contextlib.suppress(OSError):
            there = os.stat(part, dir_fd=folder, follow_symlinks=False)
            taken = min(there.st_blocks * 512, size)
        free = room.f_bavail * room.f_frsize
        if size - taken > free:
            raise StorageError(f"{target} needs {size - taken} bytes, {free} are free")

    def _write_state(self, job: Job, durable: bool, finishing: bool = False) -> None:
        with self._lock:
            if job.transfer not in self._ended:
                state = dump_job(job, self._pieces.get(job.transfer, ""), finishing)
                self._write(f"{job.transfer}.state", state, durable)

    def _write(self, name: str, data: bytes, durable: bool) -> None:
        folder = self._folder()
        temporary = f"{name}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(temporary, flags, 0o600, dir_fd=folder)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            if durable:
                os.fsync(folder)
        except OSError as error:
            self._remove(temporary)
            raise storage_error(error, f"cannot write {FOLDER}/{name}") from error

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._fd)

    def _read(self, name: str, limit: int) -> bytes:
        """OSError, or ValueError where it is no regular file or larger than ``limit`` bytes."""
        with open(os.open(name, _READ, dir_fd=self._fd), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it is no regular file")
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ValueError("it is too large")
        return data

    def _load(self, transfer: TransferId) -> tuple[Job, Manifest | None, Bitfield] | None:
        try:
            stored = parse_job(self._read(f"{transfer}.state", _MAX_STATE))
            if stored.job.transfer != transfer:
                raise ValueError("it is of another transfer")
        except (OSError, ValueError) as error:
            self.problems.append(f"The state of transfer {transfer} was dropped: {error}.")
            return None
        job = stored.job
        part = self._part_size(transfer)
        manifest = self._read_manifest(job)
        if stored.finishing and self._has_name(job, part is not None):
            if manifest is not None:
                self.renamed.append((job.target, manifest))
            return None
        if manifest is None:
            if job.file_id is not None and part is not None:
                self.problems.append(f"The piece hashes of {job.target} are damaged and are fetched again.")
            self._pieces.pop(transfer, None)
            return job, None, Bitfield(0)
        held = self._held(stored, manifest, part or 0)
        self._pieces[transfer] = format_runs(held.runs())
        return job, manifest, held

    def _held(self, stored: Stored, manifest: Manifest, part_size: int) -> Bitfield:
        try:
            held = parse_runs(stored.pieces, manifest.count)
        except ValueError:
            self.problems.append(f"Which pieces of {stored.job.target} are here was not readable.")
            return Bitfield(manifest.count)
        for piece in list(held):
            if piece * manifest.piece_size + manifest.length(piece) > part_size:
                held.discard(piece)
        return held

    def _part_size(self, transfer: TransferId) -> int | None:
        try:
            result = os.stat(f"{transfer}.part", dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return None
        if stat.S_ISREG(result.st_mode):
            return result.st_size
        self._remove(f"{transfer}.part")
        return None

    def _has_name(self, job: Job, part: bool) -> bool:
        """Whether a job that was about to be renamed was: the part is gone, or (linked) the same file."""
        try:
            fd = self.root.open_file(self.root.resolve(job.target))
        except (NotFoundError, StorageError):
            return False
        try:
            there = os.fstat(fd)
            if not part:
                return there.st_size == job.size
            here = os.stat(f"{job.transfer}.part", dir_fd=self._fd, follow_symlinks=False)
            return os.path.samestat(here, there)
        finally:
            os.close(fd)

    def _read_manifest(self, job: Job) -> Manifest | None:
        try:
            manifest = parse_manifest(self._read(f"{job.transfer}.manifest", _MAX_MANIFEST))
        except (OSError, ValueError):
            return None
        return manifest if manifest.file_id == job.file_id else None


def dump_manifest(manifest: Manifest) -> bytes:
    """Size and piece size as 8 bytes big-endian each, then the hashes."""
    return manifest.size.to_bytes(8, "big") + manifest.piece_size.to_bytes(8, "big") + manifest.hashes


def parse_manifest(data: bytes) -> Manifest:
    """The reverse; ValueError."""
    if len(data) < 16:
        raise ValueError("it is too short")
    return Manifest(int.from_bytes(data[:8], "big"), int.from_bytes(data[8:16], "big"), data[16:])
