"""A store in an SQLite file, in a thread of its own; a damaged, locked or full one does not stop the manager.

Everything saved is in memory too. What could not be written is tried again
with the next save; a damaged file is put aside and written anew from memory.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from twisted.enterprise.adbapi import ConnectionPool
from twisted.logger import Logger
from zope.interface import implementer

from p2pd.manager.stores.interface import MAX_RECORDS, IStore, PeerRecord
from p2pd.manager.stores.memory import MemoryStore
from p2pd.model import PeerId, is_peer_id

log = Logger()
T = TypeVar("T")

SCHEMA_VERSION = 1
LOCK_TIMEOUT = 1.0
"""Seconds to wait for another program's lock: the thread waits, and a stop, but not the manager."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_INSERT = (
    "INSERT INTO peer (id, name, cookie_hash, seen) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
    " SET name = excluded.name, cookie_hash = excluded.cookie_hash, seen = excluded.seen"
)
_PRUNE = "DELETE FROM peer WHERE id IN (SELECT id FROM peer ORDER BY seen DESC, id LIMIT -1 OFFSET ?)"


class _NewerSchema(Exception):
    """A later p2pd wrote this file; it stays as it is."""


@implementer(IStore)
class SqliteStore:
    """Records in the file ``path``, made where it is missing."""

    def __init__(self, reactor: Any, path: Path, limit: int = MAX_RECORDS) -> None:
        self.problem = ""
        self._reactor = reactor
        self._path = path
        self._limit = limit
        self._memory = MemoryStore(limit)
        self._unwritten: dict[PeerId, PeerRecord] = {}
        self._pool: ConnectionPool | None = None
        self._usable = True

    async def open(self) -> None:
        """See :class:`IStore`."""
        self._open_pool()
        records = await self._run(_read, self._limit)
        await self._memory.save(records or [])

    async def load(self) -> Sequence[PeerRecord]:
        """See :class:`IStore`."""
        return await self._memory.load()

    async def save(self, records: Sequence[PeerRecord]) -> None:
        """See :class:`IStore`."""
        await self._memory.save(records)
        if not self._usable:
            return
        self._unwritten.update((record.id, record) for record in records)
        batch = list(self._unwritten.values())
        if not batch:
            return
        if await self._run(_write, batch, self._limit) is not None:
            for record in batch:
                if self._unwritten.get(record.id) is record:
                    del self._unwritten[record.id]
        elif len(self._unwritten) > self._limit:
            self._unwritten = {record.id: record for record in await self._memory.load()}

    async def close(self) -> None:
        """See :class:`IStore`."""
        if self._unwritten:
            await self.save([])
        self._close_pool()

    def _open_pool(self) -> None:
        self._pool = ConnectionPool(
            "sqlite3",
            str(self._path),
            cp_reactor=self._reactor,
            cp_min=1,
            cp_max=1,
            cp_noisy=False,
            check_same_thread=False,
            timeout=LOCK_TIMEOUT,
        )
        self._pool.start()

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    async def _run(self, work: Callable[..., T], *args: Any) -> T | None:
        """``work`` in one transaction in the thread; None where it failed, which ``problem`` then says."""
        for again in (True, False):
            if not self._usable or self._pool is None:
                return None
            try:
                result: T = await self._pool.runInteraction(_prepared, work, *args)
            except _NewerSchema:
                self._usable = False
                self._say(f"{self._path} was written by a later version of p2pd; it is left as it is")
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED and again:
                    await self._replace(error)
                    continue
                self._say(f"{self._path} cannot be used, so that nothing is kept over a restart: {error}")
            else:
                if self.problem:
                    log.info("the database works again")
                self.problem = ""
                return result
            return None
        return None

    def _say(self, sentence: str) -> None:
        if sentence != self.problem:
            log.warn("{sentence}", sentence=sentence)
        self.problem = sentence

    async def _replace(self, error: sqlite3.Error) -> None:
        """Put the damaged file aside, and write all that is in memory to a new one with the next save."""
        log.warn("{path} is damaged ({error}) and made anew", path=str(self._path), error=error)
        self._close_pool()
        try:
            os.replace(self._path, self._path.with_name(self._path.name + ".damaged"))
        except OSError as cause:
            self._usable = False
            self._say(f"{self._path} is damaged and cannot be replaced: {cause.strerror}")
            return
        for suffix in ("-journal", "-wal"):
            # A left-over journal would be rolled back into the new file.
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._unwritten = {record.id: record for record in await self._memory.load()} | self._unwritten
        self._open_pool()


# In the thread, each within one transaction


def _prepared(cursor: Any, work: Callable[..., T], *args: Any) -> T:
    version = cursor.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise _NewerSchema
    if version == 0:
        schema = resources.files(__package__).joinpath("schema.sql").read_text("utf-8")
        cursor.executescript(f"BEGIN IMMEDIATE;\n{schema}")
    return work(cursor, *args)


def _read(cursor: Any, limit: int) -> list[PeerRecord]:
    rows = cursor.execute(
        "SELECT id, name, cookie_hash, seen FROM peer ORDER BY seen DESC, id LIMIT ?", (limit,)
    ).fetchall()
    # SQLite columns take any type, and other programs can write the file.
    return [
        PeerRecord(PeerId(id_), name, cookie_hash, seen)
        for id_, name, cookie_hash, seen in rows
        if isinstance(id_, str)
        and is_peer_id(id_)
        and isinstance(name, str)
        and isinstance(cookie_hash, str)
        and isinstance(seen, int)
    ]


def _write(cursor: Any, records: Sequence[PeerRecord], limit: int) -> bool:
    rows = [(each.id, each.name, each.cookie_hash, each.seen) for each in records]
    cursor.executemany(_INSERT, rows)
    cursor.execute(_PRUNE, (limit,))
    return True
