"""The cache of hashes forgets what has not been there for long, and nothing else."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from p2pd.model import Manifest
from p2pd.share.cache import KEEP_DAYS, ManifestCache
from p2pd.share.hashing import StatKey

from .conftest import Rig, awaited

COUNT = 120


def manifest(number: int, piece_size: int = 100) -> Manifest:
    return Manifest(1, piece_size, number.to_bytes(32, "big"))


def key(number: int) -> StatKey:
    return StatKey(1, 2**64 - 1 - number, 1, 2, 3)  # inodes that SQLite takes for negative


def rows(path: Path, table: str = "manifests") -> int:
    database = sqlite3.connect(path)
    try:
        return int(database.execute(f"select count(*) from {table}").fetchone()[0])
    finally:
        database.close()


def test_what_was_not_seen_for_long_is_forgotten(tmp_path: Path) -> None:
    path, day = tmp_path / "cache", [100]
    cache = ManifestCache(str(path), lambda: day[0])
    cache.put_many((key(number), manifest(number), False) for number in range(COUNT))
    cache.put(key(0), manifest(0, 50))  # as another peer once asked for it
    cache.put(key(1), manifest(1, 70), kept=True)
    day[0] += KEEP_DAYS
    cache.prune()
    assert rows(path) == COUNT + 2, "not yet"
    half = [(key(number), 100) for number in range(COUNT // 2)]
    assert all(cache.lookup(half))
    day[0] += 1
    cache.prune()
    assert rows(path) == COUNT // 2 + 2
    assert rows(path, "seen") == COUNT // 2
    assert cache.get(key(COUNT - 1), 100) is None
    for number in range(COUNT // 2):
        assert cache.get(key(number), 100) == manifest(number)
    assert cache.get(key(0), 50) == manifest(0, 50)
    assert cache.get(key(1), None) == manifest(1, 70)
    day[0] += KEEP_DAYS
    cache.prune()
    assert (rows(path), rows(path, "seen")) == (0, 0)
    cache.put(key(5), manifest(5))
    cache.close()
    assert ManifestCache(str(path)).get(key(5), 100) == manifest(5)


def test_a_cache_from_before_this_was_noted_is_kept(tmp_path: Path) -> None:
    path, day = tmp_path / "cache", [100]
    cache = ManifestCache(str(path), lambda: day[0])
    cache.put(key(1), manifest(1))
    cache.close()
    database = sqlite3.connect(path)
    database.execute("drop table seen")
    database.close()
    cache = ManifestCache(str(path), lambda: day[0])
    assert cache.lookup([(key(1), 100)]) == [(100, manifest(1).file_id)]
    assert rows(path, "seen") == 1
    cache.close()


def test_a_closed_cache_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cache = ManifestCache(str(path), lambda: 100)
    cache.put(key(1), manifest(1))
    cache.close()
    # What a thread that could not be waited for may still do.
    cache.prune()
    assert cache.get(key(1), 100) is None
    assert cache.lookup([(key(1), 100)]) == [None]
    cache.put(key(2), manifest(2))
    assert [each for each in os.listdir(tmp_path) if "damaged" in each] == []
    assert ManifestCache(str(path)).get(key(1), 100) == manifest(1)


@awaited
async def test_files_that_are_there_are_seen_by_the_first_scan(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for name in ("stays", "goes"):
        (rig.folder / name).write_bytes(name.encode())
    await rig.start()
    await rig.hashed("stays", "goes")
    ids = rig.ids
    await rig.stop()
    (rig.folder / "goes").unlink()
    again = Rig(tmp_path)
    later = again.cache._today() + KEEP_DAYS + 1
    again.cache._today = lambda: later
    pruned = []
    real = again.cache.prune

    def prune() -> None:
        real()
        pruned.append(rows(tmp_path / "cache.db"))
        again.index._from_thread(lambda: None)

    again.cache.prune = prune  # type: ignore[method-assign]
    await again.start()
    await again.until(lambda: bool(pruned))
    assert pruned == [1]
    assert again.ids == {"stays": ids["stays"]}
    await again.stop()
