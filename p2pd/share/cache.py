"""The manifests known of files, by their stat: losing it costs hashing them again and nothing else."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from p2pd.model import FileId, Manifest, is_file_id
from p2pd.share.hashing import StatKey

_SCHEMA = """
create table if not exists manifests (
    device integer not null,
    inode integer not null,
    size integer not null,
    mtime_ns integer not null,
    ctime_ns integer not null,
    piece_size integer not null,
    kept integer not null,
    file_id text not null,
    hashes blob not null,
    primary key (device, inode, size, mtime_ns, ctime_ns, piece_size)
)
"""
_SEEN = """
create table if not exists seen (
    device integer not null,
    inode integer not null,
    size integer not null,
    mtime_ns integer not null,
    ctime_ns integer not null,
    day integer not null,
    primary key (device, inode, size, mtime_ns, ctime_ns)
) without rowid
"""
_SEEN_BY_DAY = "create index if not exists seen_day on seen (day)"
_KEY = "device = ? and inode = ? and size = ? and mtime_ns = ? and ctime_ns = ?"
_VERSION = 1
_BUSY_SECONDS = 0.5
_BATCH = 250
KEEP_DAYS = 30
"""Days for which the manifests of a file are kept after it was seen last."""
_FRESH_DAYS = 7
"""Days after which it is noted anew that a file was seen."""
_PRUNED_AT_ONCE = 50
_PRUNE_PAUSE = 0.02
"""Files forgotten in one step, and seconds until the next one: others need the lock in between."""

Known = tuple[int, FileId | None]
"""Piece size and file id of a manifest in the cache; without id: hash it anew at this piece size."""
Item = tuple[StatKey, Manifest, bool]
"""A manifest to keep for a file; True: it is the one that the file came with."""


def _row(key: StatKey) -> tuple[int, ...]:
    """The key as SQLite takes it, whose integers are signed."""
    inode = key.inode - 2**64 if key.inode >= 2**63 else key.inode
    device = key.device - 2**64 if key.device >= 2**63 else key.device
    return device, inode, key.size, key.mtime_ns, key.ctime_ns


_REMEMBERED = 64 * 1024 * 1024
"""Bytes of piece hashes that a Recent holds."""


class Recent:
    """The manifests that were used last, in memory; for the reactor thread only."""

    def __init__(self, limit: int = _REMEMBERED) -> None:
        """``limit``: bytes of piece hashes; the last manifest stays however large it is."""
        self._limit = limit
        self._manifests: OrderedDict[FileId, Manifest] = OrderedDict()
        self._bytes = 0

    def get(self, file_id: FileId) -> Manifest | None:
        """The manifest of this id, if it is remembered."""
        manifest = self._manifests.get(file_id)
        if manifest is not None:
            self._manifests.move_to_end(file_id)
        return manifest

    def add(self, manifest: Manifest, file_id: FileId) -> None:
        """Remember ``manifest``, whose id is ``file_id``."""
        if self.get(file_id) is not None:
            return
        self._manifests[file_id] = manifest
        self._bytes += _size(manifest)
        while self._bytes > self._limit and len(self._manifests) > 1:
            _, oldest = self._manifests.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(manifest: Manifest) -> int:
    return len(manifest.hashes) + 200  # what the objects around the hashes take


class ManifestCache:
    """Manifests by StatKey and piece size, in SQLite; every method may be called from any thread.

    No method fails: what cannot be written stays in memory and is tried again with the next
    write, and a file that is no good any more is moved aside and started anew.
    """

    def __init__(self, path: str, today: Callable[[], int] = lambda: int(time.time() // 86400)) -> None:
        """``path``: of the database; ``:memory:`` for none. ``today``: in days."""
        self.path = path
        self._today = today
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._unsaved: dict[tuple[StatKey, int], tuple[Manifest, bool]] = {}
        self._unsaved_kept: dict[StatKey, Manifest] = {}
        self._problem: str | None = None
        self._database = self._open()
        self._empty = not self._query("select 1 from manifests limit 1", ())
        self._any_kept = bool(self._query("select 1 from manifests where kept limit 1", ()))

    @property
    def problem(self) -> str | None:
        """A sentence where the hashes of the share would not outlive the daemon."""
        return self._problem

    def close(self) -> None:
        """Close the database."""
        self._closing.set()
        with self._lock:
            self._database.close()

    def get(self, key: StatKey, piece_size: int | None) -> Manifest | None:
        """The manifest at ``piece_size`` bytes; None asks for the one that the file came with."""
        with self._lock:
            unsaved = self._in_memory(key, piece_size)
            if unsaved is not None:
                return unsaved
            which = "kept" if piece_size is None else "piece_size = ?"
            rows = self._query(
                f"select piece_size, file_id, hashes from manifests where {_KEY} and {which}",
                _row(key) if piece_size is None else (*_row(key), piece_size),
            )
        for size, file_id, hashes in rows:
            with contextlib.suppress(ValueError, TypeError):
                manifest = Manifest(key.size, size, hashes)
                if manifest.file_id == file_id:  # a flipped bit costs hashing again
                    return manifest
        return None

    def lookup(self, wanted: Sequence[tuple[StatKey, int]]) -> list[Known | None]:
        """For every (key, usual piece size): what is known, the manifest it came with first.

        A file that came with a manifest and was touched or renamed since keeps the piece size.
        """
        found: list[Known | None] = [None] * len(wanted)
        with self._lock:
            if self._empty:
                return found
            for at in range(0, len(wanted), _BATCH):
                self._look_up(wanted[at : at + _BATCH], found, at)
            for at, (key, piece_size) in enumerate(wanted):
                unsaved = self._in_memory(key, None) or self._in_memory(key, piece_size)
                if unsaved is not None:
                    found[at] = (unsaved.piece_size, unsaved.file_id)
                elif found[at] is None and self._any_kept:
                    kept = self._kept_piece_size(key)
                    found[at] = None if kept is None else (kept, None)
        return found

    def _look_up(self, wanted: Sequence[tuple[StatKey, int]], found: list[Known | None], first: int) -> None:
        """One query for many files: one for each takes four times as long."""
        values: list[int] = []
        for at, (key, piece_size) in enumerate(wanted, first):
            values += (at, *_row(key), piece_size)
        rows = self._query(
            f"with wanted (at, device, inode, size, mtime_ns, ctime_ns, usual) as"
            f" (values {','.join(['(?, ?, ?, ?, ?, ?, ?)'] * len(wanted))})"
            " select at, piece_size, file_id, day from wanted cross join manifests"
            " using (device, inode, size, mtime_ns, ctime_ns) left join seen"
            " using (device, inode, size, mtime_ns, ctime_ns) where kept or piece_size = usual order by kept",
            values,
        )
        today, stale = self._today(), set()
        for at, piece_size, file_id, day in rows:
            if is_file_id(file_id):
                found[at] = (piece_size, FileId(file_id))
            if day is None or day < today - _FRESH_DAYS:
                stale.add(wanted[at - first][0])
        if stale:
            with contextlib.suppress(sqlite3.Error), self._database:
                self._note_seen(stale)

    def _note_seen(self, keys: Iterable[StatKey]) -> None:
        """Within a transaction."""
        day = self._today()
        self._database.executemany(
            "insert into seen values (?, ?, ?, ?, ?, ?) on conflict do update set day = excluded.day",
            [(*_row(key), day) for key in keys],
        )

    def prune(self) -> None:
        """Forget what was not seen for :data:`KEEP_DAYS`, in small steps. Blocking, and may take long.

        To be called after all that is there was looked up.
        """
        before = self._today() - KEEP_DAYS
        while True:
            with self._lock:
                if self._closing.is_set():
                    return
                gone = self._query(
                    f"select device, inode, size, mtime_ns, ctime_ns from seen where day < ?"
                    f" limit {_PRUNED_AT_ONCE}",
                    (before,),
                )
                try:
                    with self._database:
                        self._database.executemany(f"delete from manifests where {_KEY}", gone)
                        self._database.executemany(f"delete from seen where {_KEY}", gone)
                except sqlite3.Error:  # full, locked, damaged: it is found out, and told, when it is written
                    return
            if not gone:
                return
            self._closing.wait(_PRUNE_PAUSE)

    def put(self, key: StatKey, manifest: Manifest, kept: bool = False) -> None:
        """Remember ``manifest`` for the file; ``kept``: it is the one it came with."""
        self.put_many([(key, manifest, kept)])

    def put_many(self, items: Iterable[Item]) -> None:
        """Remember many in one transaction."""
        with self._lock:
            for key, manifest, kept in items:
                self._empty = False
                self._unsaved[key, manifest.piece_size] = (manifest, kept)
                if kept:
                    self._any_kept = True
                    self._unsaved_kept[key] = manifest
            for _ in range(2):
                try:
                    self._write()
                except sqlite3.OperationalError as error:  # full, read-only, locked: not damaged
                    self._problem = f"The hashes of the share cannot be kept in {self.path}: {error}."
                except sqlite3.DatabaseError:
                    self._replace()
                    continue
                return

    def _kept_piece_size(self, key: StatKey) -> int | None:
        device, inode, size, *_ = _row(key)
        rows = self._query(
            "select piece_size from manifests where device = ? and inode = ? and size = ?"
            " and kept order by rowid desc limit 1",
            (device, inode, size),
        )
        return rows[0][0] if rows else None

    def _in_memory(self, key: StatKey, piece_size: int | None) -> Manifest | None:
        """What could not be written yet; piece size None: the one the file came with."""
        if not self._unsaved:
            return None
        if piece_size is None:
            return self._unsaved_kept.get(key)
        found = self._unsaved.get((key, piece_size))
        return found[0] if found else None

    def _write(self) -> None:
        rows = [
            (*_row(key), manifest.piece_size, kept, manifest.file_id, manifest.hashes)
            for (key, _), (manifest, kept) in self._unsaved.items()
        ]
        with self._database:  # one transaction
            self._database.executemany(
                "insert into manifests values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " on conflict do update set kept = max(kept, excluded.kept),"
                " file_id = excluded.file_id, hashes = excluded.hashes",
                rows,
            )
            self._note_seen({key for key, _ in self._unsaved})
        self._unsaved.clear()
        self._unsaved_kept.clear()
        self._problem = None

    def _query(self, sql: str, values: Sequence[int]) -> list[Any]:
        """The rows, or none where the database is no good; the lock is held."""
        try:
            return self._database.execute(sql, values).fetchall()
        except sqlite3.OperationalError:
            return []
        except sqlite3.DatabaseError:
            self._replace()
            return []

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect(self.path)
        except sqlite3.OperationalError as error:  # locked, or cannot be made
            self._problem = f"The hashes of the share cannot be kept in {self.path}: {error}."
        except sqlite3.DatabaseError:
            self._move_aside()
            with contextlib.suppress(sqlite3.Error):
                return self._connect(self.path)
            self._problem = f"The hashes of the share cannot be kept in {self.path}: it is damaged."
        return self._connect(":memory:")

    def _connect(self, path: str) -> sqlite3.Connection:
        database = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            database.execute("pragma journal_mode = wal")
            database.execute("pragma synchronous = normal")
            if database.execute("pragma user_version").fetchone()[0] not in (0, _VERSION):
                raise sqlite3.DatabaseError("the database is of another version")
            for statement in (_SCHEMA, _SEEN, _SEEN_BY_DAY):
                database.execute(statement)
            database.execute(f"pragma user_version = {_VERSION}")
            database.execute("select piece_size, kept, file_id, hashes from manifests limit 1").fetchall()
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _replace(self) -> None:
        """Start anew in place of a database that was damaged while it was open."""
        if self._closing.is_set():
            return  # it is not damaged: a thread that was not waited for uses it still
        self._database.close()
        self._move_aside()
        self._database = self._open()

    def _move_aside(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.replace(self.path + suffix, f"{self.path}.damaged{suffix}")
