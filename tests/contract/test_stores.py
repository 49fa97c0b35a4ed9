"""What every store of the manager does; and what SQLite does when its file is bad."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from p2pd.manager.stores.interface import IStore, PeerRecord
from p2pd.manager.stores.memory import MemoryStore
from p2pd.manager.stores.sqlite import SqliteStore
from p2pd.model import PeerId


def record(number: int, name: str = "lab", seen: int = 1000) -> Any:
    return PeerRecord(PeerId(f"{number:032x}"), name, f"{number:064x}", seen)


def real_reactor() -> Any:
    from twisted.internet import reactor

    return reactor


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: Any, tmp_path: Path) -> Any:
    def make(limit: int = 10) -> Any:
        if request.param == "memory":
            return MemoryStore(limit)
        return SqliteStore(real_reactor(), tmp_path / "peers.sqlite", limit)

    return make


@ensureDeferred  # type: ignore[untyped-decorator]
async def test_what_is_saved_is_loaded(make_store: Any) -> None:
    store = make_store()
    assert IStore.providedBy(store)
    await store.open()
    assert list(await store.load()) == []
    await store.save([record(1, seen=5), record(2, seen=7)])
    await store.save([])
    assert list(await store.load()) == [record(2, seen=7), record(1, seen=5)]
    assert store.problem == ""
    await store.close()


@ensureDeferred  # type: ignore[untyped-decorator]
async def test_the_last_one_of_an_id_counts(make_store: Any) -> None:
    store = make_store()
    await store.open()
    await store.save([record(1, "old"), record(1, "d'rop; table peer --\u00e9")])
    await store.save([record(2)])
    await store.save([record(1, "new", 2000)])
    assert list(await store.load()) == [record(1, "new", 2000), record(2)]
    await store.close()


@ensureDeferred  # type: ignore[untyped-decorator]
async def test_those_not_seen_for_longest_are_forgotten(make_store: Any) -> None:
    store = make_store(limit=3)
    await store.open()
    await store.save([record(number, seen=number) for number in range(5)])
    await store.save([record(9, seen=9)])
    assert [each.seen for each in await store.load()] == [9, 4, 3]
    await store.close()


async def opened(path: Path, limit: int = 10) -> Any:
    store = SqliteStore(real_reactor(), path, limit)
    await store.open()
    return store


@ensureDeferred  # type: ignore[untyped-decorator]
async def test_sqlite_keeps_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    store = await opened(path, 3)
    await store.save([record(number, seen=number) for number in range(5)])
    await store.close()
    store = await opened(path, 3)
    assert [each.seen for each in await store.load()] == [4, 3, 2]
    await store.close()


@pytest.mark.fault(54, 61)
@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
@ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_damaged_file_is_put_aside_and_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peers.sqlite"
    path.write_bytes(content)
    store = await opened(path)
    await store.save([record(1)])
    assert store.problem == ""
    await store.close()
    assert (tmp_path / "peers.sqlite.damaged").read_bytes() == content
    store = await opened(path)
    assert list(await store.load()) == [record(1)]
    await store.close()


@pytest.mark.fault(61)
@ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_file_damaged_while_in_use_is_made_anew_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    store = await opened(path)
    await store.save([record(1)])
    path.write_bytes(b"garbage" * 2000)
    await store.save([record(2)])
    await store.close()
    store = await opened(path)
    assert sorted(each.id for each in await store.load()) == [record(1).id, record(2).id]
    await store.close()


@pytest.mark.fault(61)
@ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_locked_file_is_served_from_memory_and_written_later(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    store = await opened(path)
    await store.save([record(1)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    await store.save([record(2)])
    assert "locked" in store.problem
    assert len(await store.load()) == 2
    other.execute("ROLLBACK")
    await store.save([record(3)])
    assert store.problem == ""
    assert other.execute("SELECT count(*) FROM peer").fetchone() == (3,)
    other.close()
    await store.close()


@pytest.mark.fault(61)
@ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_full_file_is_served_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    store = await opened(path, 10_000)
    assert store._pool is not None
    pages = await store._pool.runQuery("PRAGMA page_count")
    await store._pool.runQuery(f"PRAGMA max_page_count = {pages[0][0]}")
    many = [record(number, "n" * 200) for number in range(500)]
    await store.save(many)
    assert "full" in store.problem
    assert len(await store.load()) == 500
    await store._pool.runQuery("PRAGMA max_page_count = 100000")
    await store.save([])
    assert store.problem == ""
    await store.close()
    store = await opened(path, 10_000)
    assert len(await store.load()) == 500
    await store.close()


@pytest.mark.fault(98)
@ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_file_of_a_later_version_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE future (x)")
        other.execute("PRAGMA user_version = 99")
    other.close()
    before = path.read_bytes()
    store = await opened(path)
    await store.save([record(1)])
    assert "later version" in store.problem
    assert list(await store.load()) == [record(1)]
    await store.close()
    assert path.read_bytes() == before


@ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_place_that_cannot_be_written_is_a_problem_only(tmp_path: Path) -> None:
    store = await opened(tmp_path / "missing" / "peers.sqlite")
    await store.save([record(1)])
    assert "cannot be used" in store.problem
    assert list(await store.load()) == [record(1)]
    await store.close()
