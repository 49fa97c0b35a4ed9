from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from p2pd.share import hashing, listing, scan, syscalls
from p2pd.share.inotify import Inotify

from .conftest import Rig, awaited


@awaited
async def test_files_come_change_move_and_go(rig: Rig) -> None:
    await rig.start()
    (rig.folder / "a").write_bytes(b"1")
    await rig.hashed("a")
    first = rig.ids["a"]
    (rig.folder / "a").write_bytes(b"22")
    await rig.until(lambda: rig.ids.get("a", first) != first)
    (rig.folder / "a").rename(rig.folder / "b")
    await rig.until(lambda: rig.names == ["b"])
    os.link(rig.folder / "b", rig.folder / "hard")
    await rig.until(lambda: rig.names == ["b", "hard"])
    (rig.folder / "b").unlink()
    (rig.folder / "hard").rename(rig.folder / ".hidden")
    await rig.until(lambda: rig.names == [])
    assert rig.told[0] == "a"
    assert rig.told[-1] in ("b", "hard")


@awaited
async def test_folders_come_move_and_go(rig: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "in" / "ner"
    outside.mkdir(parents=True)
    (outside / "a").write_bytes(b"x")
    await rig.start()
    (tmp_path / "outside").rename(rig.folder / "one")
    await rig.until(lambda: rig.names == ["one/in/ner/a"])
    (rig.folder / "one").rename(rig.folder / "two")
    await rig.until(lambda: rig.names == ["two/in/ner/a"])
    (rig.folder / "two" / "in" / "ner" / "b").write_bytes(b"y")
    await rig.until(lambda: rig.names == ["two/in/ner/a", "two/in/ner/b"])
    (rig.folder / "two" / "in").rename(tmp_path / "away")
    await rig.until(lambda: rig.names == [])
    (tmp_path / "away" / "ner" / "c").write_bytes(b"z")
    shutil.copytree(tmp_path / "away", rig.folder / "three")
    await rig.until(lambda: rig.names == ["three/ner/a", "three/ner/b", "three/ner/c"])
    shutil.rmtree(rig.folder / "three")
    await rig.until(lambda: rig.names == [])
    (rig.folder / "three").mkdir()
    (rig.folder / "three" / "again").write_bytes(b"x")
    await rig.until(lambda: rig.names == ["three/again"])
    (rig.folder / "three").rename(rig.folder / ".three")
    await rig.until(lambda: rig.names == [])


@awaited
@pytest.mark.parametrize("sure", [True, False])
async def test_a_file_that_is_copied_in_slowly(rig: Rig, sure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not sure:  # somebody else's file: the kernel does not say who writes it
        monkeypatch.setattr(syscalls, "has_writer", lambda fd: None)
    await rig.start()
    with open(rig.folder / "slow", "wb", buffering=0) as slow:
        for _ in range(3):
            slow.write(b"x" * 1000)
            await rig.mark()
            rig.clock.advance(10 if sure else 3)
            await rig.mark()
            assert "slow" not in rig.names
            assert await rig.index.find("slow") is None
    await rig.hashed("slow")
    assert (await rig.index.manifest("slow")).size == 3000
    fresh = rig.told.count("slow")
    with open(rig.folder / "slow", "r+b", buffering=0) as slow:
        slow.write(b"y")
        await rig.until(lambda: "slow" not in rig.names)
    await rig.hashed("slow")
    assert rig.told.count("slow") == fresh + 2


@awaited
async def test_a_writer_that_is_counted_out_after_its_close_was_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the one who closes loses the processor in the middle of it; the clock stands still."""
    await rig.start()
    looks: list[bool] = []
    has_writer = syscalls.has_writer

    def late(fd: int) -> bool | None:
        looks.append(len(looks) < 3)
        return looks[-1] or has_writer(fd)

    monkeypatch.setattr(syscalls, "has_writer", late)
    (rig.folder / "a").write_bytes(b"hello")
    await rig.hashed("a")
    assert looks == [True, True, True, False]


@awaited
async def test_a_second_writer_is_not_looked_for_without_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start()
    has_writer = syscalls.has_writer
    looks: list[bool | None] = []
    enough: Deferred[None] = Deferred()

    def count(fd: int) -> bool | None:
        looks.append(has_writer(fd))
        if len(looks) == scan.CLOSINGS + 1:
            reactor.callFromThread(enough.callback, None)  # type: ignore[attr-defined]
        return looks[-1]

    monkeypatch.setattr(syscalls, "has_writer", count)
    with open(rig.folder / "a", "wb", buffering=0) as first:
        with open(rig.folder / "a", "wb", buffering=0):
            pass
        await enough
        monkeypatch.undo()
        await rig.mark()
        assert rig.index._scanner._closing == {}
        assert "a" not in rig.names
        first.write(b"x")
    await rig.hashed("a")
    assert looks == [True] * (scan.CLOSINGS + 1)


@awaited
async def test_what_else_happens_does_not_use_up_the_looks_at_a_file_that_was_closed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start()
    looks: list[float] = []
    scanner = rig.index._scanner

    def busy(fd: int) -> bool:
        looks.append(time.monotonic())
        return len(looks) < scan.CLOSINGS

    monkeypatch.setattr(syscalls, "has_writer", busy)
    (rig.folder / "a").write_bytes(b"hello")
    while "a" not in rig.ids:
        await deferToThread(scanner._bell.ring)  # wakes it
    pauses = [after - before for before, after in itertools.pairwise(looks)]
    assert all(pause >= 0.001 * 2**number for number, pause in enumerate(pauses))


@awaited
async def test_a_folder_in_the_place_of_a_file_that_was_being_closed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start()
    looks: list[int] = []

    def replaced(fd: int) -> bool:
        looks.append(fd)
        if len(looks) == 2:  # the events are handled before it is looked at again
            (rig.folder / "a").unlink()
            (rig.folder / "a").mkdir()
        return True

    monkeypatch.setattr(syscalls, "has_writer", replaced)
    (rig.folder / "a").write_bytes(b"hello")
    await rig.until(lambda: b"a" in rig.index._scanner._known)
    monkeypatch.undo()
    await rig.mark()
    scanner = rig.index._scanner
    await rig.mark()
    assert scanner._closing == {}
    assert scanner._waiting == {}
    assert scanner._unreadable == {}


@awaited
async def test_a_file_in_the_making_at_start(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "has_writer", lambda fd: None)
    (rig.folder / "young").write_bytes(b"x")
    (rig.folder / "old").write_bytes(b"x")
    real = hashing.stat_row

    def stat_row(result: os.stat_result) -> tuple[int, int, int, int, int]:
        row = real(result)
        old = result.st_ino == (rig.folder / "old").stat().st_ino
        return (*row[:4], row[4] - 3_000_000_000) if old else row

    monkeypatch.setattr(listing, "stat_row", stat_row)
    await rig.start()
    await rig.until(lambda: bool(rig.index._state.waiting))
    assert rig.names == ["old"]
    assert await rig.index.find("young") is None
    rig.clock.advance(0.6)  # not yet
    await rig.mark()
    assert rig.names == ["old"]
    rig.clock.pump([0.5] * 4)
    await rig.until(lambda: rig.names == ["old", "young"])


@awaited
async def test_a_file_open_for_writing_at_start_waits_for_its_close(rig: Rig) -> None:
    with open(rig.folder / "a", "wb", buffering=0) as file:
        file.write(b"x")
        await rig.start()
        rig.clock.pump([0.5] * 100)
        await rig.mark()
        assert rig.names == []
    await rig.until(lambda: rig.names == ["a"])


@awaited
async def test_lost_events_are_made_up_for(rig: Rig) -> None:
    for name in ("stays", "changes", "goes", "folder/goes", "folder2/stays"):
        (rig.folder / name).parent.mkdir(exist_ok=True)
        (rig.folder / name).write_bytes(b"x")
    await rig.start()
    await rig.hashed("stays", "changes", "goes", "folder/goes", "folder2/stays")
    before = rig.ids
    told = len(rig.told)
    assert rig.inotify is not None
    (rig.folder / ".new" / "sub").mkdir(parents=True)
    (rig.folder / ".new" / "sub" / "a").write_bytes(b"y")
    rig.inotify.lose = True
    (rig.folder / "changes").write_bytes(b"changed")
    (rig.folder / "goes").unlink()
    shutil.rmtree(rig.folder / "folder")
    (rig.folder / "folder2").rename(rig.folder / "moved")
    (rig.folder / ".new").rename(rig.folder / "new")
    await rig.hashed("stays", "changes", "new/sub/a", "moved/stays")
    await rig.until(lambda: rig.names == ["changes", "moved/stays", "new/sub/a", "stays"])
    assert rig.ids["stays"] == before["stays"]
    assert rig.ids["changes"] != before["changes"]
    assert "stays" not in rig.told[told:]
    (rig.folder / "moved" / "more").write_bytes(b"watched under its new name")
    (rig.folder / "new" / "sub" / "more").write_bytes(b"and so is what is new")
    await rig.until(lambda: {"moved/more", "new/sub/more"} <= set(rig.names))


class NoInotify(Inotify):
    def __init__(self) -> None:
        raise OSError(errno.EMFILE, "Too many open files")


class FewWatches(Inotify):
    def add(self, folder_fd: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@awaited
@pytest.mark.parametrize("kind", [NoInotify, FewWatches])
async def test_without_events_everything_is_looked_at_every_30_s(tmp_path: Path, kind: type[Inotify]) -> None:
    rig = Rig(tmp_path, make_inotify=kind)
    (rig.folder / "a").write_bytes(b"x")
    (rig.folder / "b").write_bytes(b"x")
    await rig.start()
    assert rig.names == ["a", "b"]
    assert any("every 30 s" in sentence for sentence in rig.index.problems)
    await rig.hashed("a", "b")
    (rig.folder / "a").unlink()
    (rig.folder / "b").write_bytes(b"changed")
    (rig.folder / "sub").mkdir()
    (rig.folder / "sub" / "c").write_bytes(b"x")
    assert await rig.index.find("sub/c") is not None  # asked for by name it is found at once
    rig.clock.advance(30)
    await rig.until(lambda: rig.names == ["b", "sub/c"])
    await rig.hashed("b", "sub/c")
    shutil.rmtree(rig.folder / "sub")
    rig.clock.advance(30)
    await rig.until(lambda: rig.names == ["b"])
    await rig.stop()


@awaited
async def test_a_share_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "remote_file_system", lambda fd: "NFS")
    rig = Rig(tmp_path)
    await rig.start()
    assert any("NFS" in sentence for sentence in rig.index.problems)
    await rig.stop()


@pytest.mark.fault(58)
@awaited
async def test_the_share_is_removed(rig: Rig) -> None:
    (rig.folder / "a").write_bytes(b"x")
    await rig.start()
    assert rig.names == ["a"]
    shutil.rmtree(rig.folder)
    await rig.until(lambda: rig.names == [])
    rig.clock.advance(30)  # no event tells of a folder that is removed while it is held open
    await rig.until(lambda: bool(rig.index.problems))
    assert "removed" in rig.index.problems[0]
    assert await rig.index.find("a") is None


@pytest.mark.fault(24)
@awaited
async def test_the_share_is_moved_away(rig: Rig, tmp_path: Path) -> None:
    (rig.folder / "a").write_bytes(b"x")
    await rig.start()
    rig.folder.rename(tmp_path / "away")
    await rig.until(lambda: bool(rig.index.problems))
    assert rig.names == ["a"]  # what is held open is still what is served
    (tmp_path / "away").rename(rig.folder)
    await rig.until(lambda: not rig.index.problems)


@awaited
async def test_stopping_leaves_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    warm = Rig(tmp_path)
    await warm.start()
    await warm.stop()
    before = len(os.listdir("/proc/self/fd"))
    rig = Rig(tmp_path)
    (rig.folder / "a").write_bytes(b"x")
    await rig.start()
    await rig.hashed("a")
    await rig.stop()
    assert len(os.listdir("/proc/self/fd")) == before
