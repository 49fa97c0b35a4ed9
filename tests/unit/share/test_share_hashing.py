from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.errors import ChangedError
from p2pd.model import Manifest
from p2pd.pieces import default_piece_size
from p2pd.share.cache import ManifestCache, Recent
from p2pd.share.hashing import Cancelled, HashRun, StatKey, hash_file, usual_piece_size


def never() -> bool:
    return False


def expected(data: bytes, piece_size: int) -> Manifest:
    pieces = [data[at : at + piece_size] for at in range(0, len(data), piece_size)]
    return Manifest(len(data), piece_size, b"".join(blake3.blake3(piece).digest() for piece in pieces))


@pytest.mark.fault(44)
@given(st.binary(max_size=200), st.integers(1, 70), st.integers(1, 90))
@settings(deadline=None)
def test_any_step_gives_the_same_manifest(data: bytes, piece_size: int, step: int) -> None:
    fd = os.memfd_create("data")
    try:
        os.write(fd, data)
        run = HashRun(len(data), piece_size)
        while not run.finished:
            run.step(fd, bytearray(step))
        assert run.manifest() == expected(data, piece_size)
    finally:
        os.close(fd)


@pytest.mark.fault(44)
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3 * 65536, 5_000_001])
def test_hash_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    told: list[int] = []
    with open(tmp_path / "a", "rb") as file:
        manifest = hash_file(file.fileno(), size, 65536, progress=told.append, cancelled=never)
    assert manifest == expected(data, 65536)
    assert told == sorted(told)
    assert (told or [0])[-1] == size


@pytest.mark.fault(39)
def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    with open(tmp_path / "a", "rb") as file, pytest.raises(ChangedError):
        hash_file(file.fileno(), 101, 10, progress=lambda _: None, cancelled=never)


@pytest.mark.fault(43)
def test_a_sparse_tebibyte_is_left_at_the_next_step(tmp_path: Path) -> None:
    size = 2**40
    with open(tmp_path / "a", "wb") as file:
        file.truncate(size)
    told: list[int] = []
    with open(tmp_path / "a", "rb") as file, pytest.raises(Cancelled):
        hash_file(
            file.fileno(),
            size,
            default_piece_size(size),
            progress=told.append,
            cancelled=lambda: len(told) == 2,
        )
    assert told[-1] <= 32 * 2**20


@given(st.integers(0, 2**50), st.one_of(st.none(), st.integers(1, 2**40)))
def test_the_usual_piece_size_always_fits(size: int, configured: int | None) -> None:
    piece_size = usual_piece_size(size, configured)
    HashRun(size, piece_size)
    if configured is None:
        assert piece_size == default_piece_size(size)


KEY = StatKey(2**64 - 5, 2**63 + 1, 100, 5, 6)
OTHER = StatKey(1, 2, 100, 5, 6)


def manifest(piece_size: int, fill: bytes = b"h") -> Manifest:
    return Manifest(100, piece_size, fill * 32 * -(-100 // piece_size))


def test_the_cache_keeps_manifests_over_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    cache = ManifestCache(path)
    cache.put(KEY, manifest(50))
    cache.put(KEY, manifest(10), kept=True)
    cache.put(KEY, manifest(10))
    cache.close()
    cache = ManifestCache(path)
    assert cache.get(KEY, 50) == manifest(50)
    assert cache.get(KEY, None) == manifest(10)
    assert cache.get(KEY, 20) is None
    assert cache.get(OTHER, None) is None
    kept = (10, manifest(10).file_id)
    assert cache.lookup([(KEY, 50), (OTHER, 50)] * 300) == [kept, None] * 300
    assert cache.problem is None


def test_a_file_that_was_touched_keeps_its_piece_size(tmp_path: Path) -> None:
    cache = ManifestCache(str(tmp_path / "cache.db"))
    cache.put(OTHER, manifest(10), kept=True)
    touched = StatKey(1, 2, 100, 7, 8)
    assert cache.lookup([(touched, 50)]) == [(10, None)]
    assert cache.lookup([(StatKey(1, 2, 101, 7, 8), 50)]) == [None]


@pytest.mark.fault(61)
@pytest.mark.parametrize("junk", [b"", b"junk" * 2000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_cache_is_moved_aside(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(junk)
    cache = ManifestCache(str(path))
    assert cache.get(KEY, 10) is None
    cache.put(KEY, manifest(10))
    cache.close()
    assert ManifestCache(str(path)).get(KEY, 10) == manifest(10)


@pytest.mark.fault(61)
def test_a_cache_damaged_while_open_costs_hashing_again(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    cache = ManifestCache(str(path))
    cache.put_many((StatKey(1, n, 100, 0, 0), manifest(10), False) for n in range(1000))
    cache.close()
    cache = ManifestCache(str(path))
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    cache.get(StatKey(1, 500, 100, 0, 0), 10)
    cache.put(KEY, manifest(10))
    assert cache.get(KEY, 10) == manifest(10)


@pytest.mark.fault(61)
def test_a_locked_cache_is_served_from_memory(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    cache = ManifestCache(path)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("begin exclusive")
        cache.put(KEY, manifest(10), kept=True)
        assert cache.problem is not None
        assert cache.get(KEY, 10) == cache.get(KEY, None) == manifest(10)
        assert cache.lookup([(KEY, 50)]) == [(10, manifest(10).file_id)]
        other.execute("rollback")
    cache.put(OTHER, manifest(10))
    assert cache.problem is None
    cache.close()
    assert ManifestCache(path).get(KEY, 10) == manifest(10)


@pytest.mark.fault(61)
def test_a_full_disk_breaks_nothing(tmp_path: Path) -> None:
    cache = ManifestCache(str(tmp_path / "cache.db"))
    cache._database.execute("pragma max_page_count = 4")
    for n in range(200):
        cache.put(StatKey(1, n, 100, 0, 0), manifest(1))
    assert "cannot be kept" in str(cache.problem)
    assert all(cache.get(StatKey(1, n, 100, 0, 0), 1) == manifest(1) for n in range(200))


@pytest.mark.fault(61)
def test_no_place_for_the_cache(tmp_path: Path) -> None:
    cache = ManifestCache(str(tmp_path / "missing" / "cache.db"))
    assert cache.problem is not None
    cache.put(KEY, manifest(10))
    assert cache.get(KEY, 10) == manifest(10)


def test_a_flipped_bit_in_the_hashes_is_noticed(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    cache = ManifestCache(path)
    cache.put(OTHER, manifest(10))
    with sqlite3.connect(path) as other:
        other.execute("update manifests set hashes = ?", (manifest(10, b"i").hashes,))
    assert cache.get(OTHER, 10) is None


def test_recent_forgets_the_oldest() -> None:
    recent = Recent(limit=3000)
    manifests = [manifest(5, bytes([n])) for n in range(10)]
    for one in manifests:
        recent.add(one, one.file_id)
    assert recent.get(manifests[0].file_id) is None
    assert recent.get(manifests[9].file_id) == manifests[9]
