from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from p2pd.errors import ChangedError, NotFoundError, StorageError, UsageError
from p2pd.model import FileId, Manifest
from p2pd.share import syscalls
from p2pd.share.hashing import STEP, HashRun, StatKey
from p2pd.share.inotify import Inotify

from .conftest import Rig, awaited


@pytest.mark.fault(22, 25, 27)
@awaited
async def test_only_plain_visible_files_are_offered(rig: Rig) -> None:
    share = rig.folder
    (share / "real").write_bytes(b"x")
    (share / "sub").mkdir()
    (share / "sub" / "in").write_bytes(b"y")
    for hidden in (".hidden", ".p2pd", "sub/.deep"):
        (share / hidden).mkdir()
        (share / hidden / "state").write_bytes(b"secret")
    (share / ".file").write_bytes(b"secret")
    (share / "leaf").symlink_to("real")
    (share / "parent").symlink_to("sub")
    (share / "up").symlink_to("..")
    os.mkfifo(share / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(share / "socket"))
        await rig.start()
        bad = ["leaf", "parent/in", "fifo", "socket", "sub", ".file", ".hidden/state", ".p2pd/state"]
        bad += ["sub/.deep/state", "up/share/real", "../share/real", "/etc/passwd", "", "missing"]
        os.link(share / "real", share / "sub" / ".link")  # and when events tell
        (share / "leaf2").symlink_to("real")
        os.mkfifo(share / "fifo2")
        await rig.mark()
        assert [n for n in rig.names if not n.startswith("zz")] == ["real", "sub/in"]
        for name in [*bad, "leaf2", "fifo2"]:
            assert await rig.index.find(name) is None
            with pytest.raises(NotFoundError):
                await rig.index.manifest(name)
    assert rig.index.problems == []


@awaited
async def test_who_asks_at_once_for_one_name_waits_for_one_look(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rig.folder / "a").write_bytes(b"hello")
    looked: list[str] = []
    on_disk = rig.index._on_disk

    def look(name: str) -> Any:
        looked.append(name)
        if name == "broken":
            raise StorageError("it is gone")
        return on_disk(name)

    monkeypatch.setattr(rig.index, "_on_disk", look)
    asked = [ensureDeferred(rig.index.find("a")) for _ in range(5)]
    failing = [ensureDeferred(rig.index.find("broken")) for _ in range(2)]
    asked[1].addErrback(lambda failure: failure.trap(CancelledError) and None)
    asked[1].cancel()
    entries = [await each for each in asked]
    assert [entry.name if entry is not None else None for entry in entries] == ["a", None, "a", "a", "a"]
    for each in failing:
        with pytest.raises(StorageError):
            await each
    assert sorted(looked) == ["a", "broken"]
    assert await rig.index.find("nothing") is None
    assert sorted(looked) == ["a", "broken", "nothing"]


@awaited
async def test_a_request_during_the_first_scan_is_answered(rig: Rig) -> None:
    (rig.folder / "a").write_bytes(b"hello")
    found = await rig.index.find("a")  # nothing was started
    assert found is not None
    assert found.name == "a"
    assert not rig.index.scanned
    manifest = await rig.index.manifest("a")
    assert manifest.size == 5
    assert rig.index.offered(manifest.file_id) is not None


@pytest.mark.fault(28, 33)
@awaited
async def test_names_on_disk_in_other_forms(rig: Rig) -> None:
    share = rig.folder
    (share / "u\u0308").mkdir()
    (share / "u\u0308" / "e\u0301").write_bytes(b"decomposed")
    (share / "o\u0308").write_bytes(b"first")
    (share / "\u00f6").write_bytes(b"second")
    with open(os.fsencode(share) + b"/bad\xff", "wb"):
        pass
    await rig.start()
    assert rig.names == ["\u00f6", "\u00fc/\u00e9"]
    entry = await rig.index.find("\u00f6")
    assert entry is not None
    assert entry.rel == "o\u0308".encode()
    assert (await rig.index.manifest("\u00fc/\u00e9")).size == len(b"decomposed")
    assert len(rig.index.problems) == 2
    assert rig.index.problems[0].startswith("1 names in the share are not UTF-8")
    assert "same name" in rig.index.problems[1]
    (share / "o\u0308").unlink()
    await rig.until(lambda: rig.index.problems[1:] == [])
    heir = await rig.index.find("\u00f6")
    assert heir is not None
    assert heir.rel == "\u00f6".encode()
    os.unlink(os.fsencode(share) + b"/bad\xff")
    await rig.until(lambda: not rig.index.problems)


@pytest.mark.fault(34)
@awaited
async def test_a_thousand_folders_and_a_thousand_deep(rig: Rig) -> None:
    for number in range(1000):
        folder = rig.folder / f"f{number:03}"
        folder.mkdir()
        (folder / "a").write_bytes(b"%d" % number)
    deep = os.open(rig.folder, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("d", dir_fd=deep)
        inner = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
    began = time.monotonic()
    await rig.start()
    assert time.monotonic() - began < 10
    assert rig.index.count == 1001
    assert rig.names == sorted(rig.names)
    await rig.hashed("f999/a", "d/" * 1000 + "bottom")
    os.close(os.open("later", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
    os.close(deep)
    (rig.folder / "f500" / "b").write_bytes(b"new")
    await rig.until(lambda: {"d/" * 1000 + "later", "f500/b"} <= set(rig.names))
    subprocess.run(["rm", "-r", rig.folder / "d"], check=True)  # pytest's own removal recurses, and fails
    await rig.until(lambda: rig.index.count == 1001)


@awaited
async def test_what_was_hashed_is_known_after_a_restart(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    (first.folder / "a").write_bytes(b"x" * 100_000)
    await first.start()
    await first.hashed("a")
    ids = first.ids
    await first.stop()
    again = Rig(tmp_path)
    again.index._hashes.background = None  # type: ignore[assignment,method-assign]  # nothing is hashed
    await again.start()
    assert again.ids == ids
    assert again.told == ["a"]
    fd, manifest, key = again.index.open(FileId(ids["a"]))
    assert manifest.file_id == ids["a"]
    assert again.index.still(fd, key, b"a")
    os.close(fd)
    await again.stop()


@awaited
async def test_piece_sizes_and_their_ids(tmp_path: Path) -> None:
    rig = Rig(tmp_path, piece_size=1000)
    (rig.folder / "a").write_bytes(b"x" * 10_000)
    (rig.folder / "twin").write_bytes(b"x" * 10_000)
    (rig.folder / "empty").write_bytes(b"")
    await rig.start()
    usual = await rig.index.manifest("a")
    assert usual.piece_size == 1000
    other = await rig.index.manifest("a", 3000)
    assert other.piece_size == 3000
    entry = rig.index.offered(other.file_id)
    assert entry is not None
    assert (entry.name, entry.file_id) == ("a", usual.file_id)
    fd, manifest, _ = rig.index.open(other.file_id)
    os.close(fd)
    assert manifest == other
    assert (await rig.index.manifest("empty")).count == 0
    await rig.hashed("a", "twin")
    assert rig.ids["a"] == rig.ids["twin"]
    (rig.folder / "a").unlink()
    await rig.until(lambda: "a" not in rig.names)
    entry = rig.index.offered(usual.file_id)
    assert entry is not None
    assert entry.name == "twin"
    assert rig.index.offered(other.file_id) is None
    with pytest.raises(NotFoundError):
        rig.index.open(other.file_id)
    with open(rig.folder / "big", "wb") as big:
        big.truncate(2**31)
    await rig.until(lambda: "big" in rig.names)
    with pytest.raises(UsageError):
        await rig.index.manifest("big", 1)
    await rig.stop()


@pytest.mark.fault(43)
@awaited
async def test_a_huge_file_holds_nobody_up_and_can_be_called_off(rig: Rig) -> None:
    for name in ("huge1", "huge2", "huge3"):
        with open(rig.folder / name, "wb") as file:
            file.truncate(2**40)
    (rig.folder / "small").write_bytes(b"x")
    await rig.start()
    huge = [ensureDeferred(rig.index.manifest(f"huge{n}")) for n in (1, 2, 3)]
    assert (await rig.index.manifest("small")).size == 1
    progress = rig.index.hashing_progress("huge1")
    assert progress is not None
    assert progress[1] == 2**40
    began = time.monotonic()
    await rig.index.stop()
    assert time.monotonic() - began < 1
    for waiting in huge:
        with pytest.raises(CancelledError):
            await waiting


@awaited
async def test_callers_share_one_hashing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    (rig.folder / "a").write_bytes(b"x" * 100)
    steps: list[int] = []
    gate = threading.Event()
    real = HashRun.step

    def step(self: HashRun, fd: int, buffer: bytearray) -> None:
        steps.append(self.piece_size)
        gate.wait(10)
        real(self, fd, buffer)

    monkeypatch.setattr(HashRun, "step", step)
    await rig.index.find("a")
    callers: list[Deferred[Manifest]] = [ensureDeferred(rig.index.manifest("a")) for _ in range(3)]
    late: Deferred[Manifest] = ensureDeferred(rig.index.manifest("a", 10))
    await rig.index.find("nothing")  # by now they all wait
    await rig.until(lambda: True)
    callers[0].cancel()
    gate.set()
    with pytest.raises(CancelledError):
        await callers[0]
    assert (await callers[1]) == (await callers[2])
    assert (await late).piece_size == 10
    assert sorted(steps) == [10, 65536]
    assert rig.index.hashing_progress("a") is None


@awaited
async def test_the_background_job_that_somebody_asks_for_goes_on_where_it_was(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(rig.folder / "a", "wb") as file:
        file.truncate(4 * STEP)
    began, gate = threading.Event(), threading.Event()
    done: list[int] = []
    real = HashRun.step

    def step(self: HashRun, fd: int, buffer: bytearray) -> None:
        began.set()
        gate.wait(10)
        done.append(self.done)
        real(self, fd, buffer)

    monkeypatch.setattr(HashRun, "step", step)
    await rig.start()
    began.wait(10)
    assert rig.index.hashing_progress("a") == (0, 4 * STEP)
    asked = ensureDeferred(rig.index.manifest("a"))
    await rig.index.find("nothing")
    gate.set()
    assert (await asked).size == 4 * STEP
    assert done == [0, STEP, 2 * STEP, 3 * STEP]


@pytest.mark.fault(40)
@awaited
async def test_a_rewritten_file_with_its_mtime_set_back_is_noticed_by_its_ctime(rig: Rig) -> None:
    path = rig.folder / "a"
    path.write_bytes(b"old")
    await rig.start()
    await rig.hashed("a")
    old = FileId(rig.ids["a"])
    fd, _, key = rig.index.open(old)
    before = path.stat()
    path.write_bytes(b"new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not rig.index.still(fd, key, b"a")
    os.close(fd)
    with pytest.raises(ChangedError):
        rig.index.open(old)
    await rig.until(lambda: rig.ids.get("a", old) != old)
    assert rig.index.offered(old) is None


@pytest.mark.fault(41, 42, 39)
@awaited
async def test_an_open_file_that_is_replaced_deleted_or_truncated(rig: Rig) -> None:
    path = rig.folder / "a"
    for change in ("replace", "delete", "truncate"):
        path.write_bytes(change.encode() * 10)
        if not rig.index.scanned:
            await rig.start()
        await rig.until(lambda: any(e.key.ctime_ns == path.stat().st_ctime_ns for e in rig.index.entries()))
        manifest = await rig.index.manifest("a")
        fd, _, key = rig.index.open(manifest.file_id)
        assert rig.index.still(fd, key, b"a")
        if change == "replace":
            (rig.folder / ".new").write_bytes(b"new")
            (rig.folder / ".new").rename(path)
        elif change == "delete":
            path.unlink()
        else:
            os.truncate(path, 3)
        assert not rig.index.still(fd, key, b"a")
        with pytest.raises((ChangedError, NotFoundError)):
            rig.index.open(manifest.file_id)
        os.close(fd)
        await rig.until(lambda gone=manifest.file_id: rig.index.offered(gone) is None)  # type: ignore[misc]


@awaited
async def test_a_file_that_keeps_changing_while_it_is_hashed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rig.folder / "a"
    path.write_bytes(b"x" * 100)
    real = HashRun.step
    count = iter(range(1000))

    def step(self: HashRun, fd: int, buffer: bytearray) -> None:
        real(self, fd, buffer)
        os.utime(path, ns=(0, next(count)))

    monkeypatch.setattr(HashRun, "step", step)
    with pytest.raises(ChangedError):
        await rig.index.manifest("a")


@pytest.mark.fault(49)
@awaited
async def test_a_bad_disk_is_this_files_problem_only(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    (rig.folder / "bad").write_bytes(b"x" * 100)
    (rig.folder / "good").write_bytes(b"y" * 50)
    real = os.preadv

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        if os.fstat(fd).st_size == 100:
            raise OSError(errno.EIO, "I/O")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    await rig.start()
    await rig.hashed("good")
    with pytest.raises(StorageError, match="input/output"):
        await rig.index.manifest("bad")
    await rig.until(lambda: any("input/output" in p for p in rig.index.problems))


@awaited
async def test_a_download_is_adopted_with_its_manifest_although_it_is_still_open(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    run = HashRun(10, 3)  # not the usual piece size
    with open(rig.folder / ".part", "w+b", buffering=0) as part:
        part.write(b"0123456789")
        run.step(part.fileno(), bytearray(10))
        manifest = run.manifest()
        (rig.folder / "new").mkdir()
        (rig.folder / ".part").rename(rig.folder / "new" / "\u00e9")
        await rig.index.adopt("new/\u00e9", manifest)
        assert rig.ids == {"new/\u00e9": manifest.file_id}
        assert rig.told.count("new/\u00e9") == 1
        await rig.mark()
        assert rig.ids.get("new/\u00e9") == manifest.file_id
    await rig.mark()
    assert rig.ids["new/\u00e9"] == manifest.file_id
    assert await rig.index.manifest("new/\u00e9") == manifest
    fd, _, key = rig.index.open(manifest.file_id)
    assert key == StatKey.of(os.fstat(fd))
    os.close(fd)
    await rig.stop()
    again = Rig(tmp_path)
    await again.start()
    assert again.ids == {"new/\u00e9": manifest.file_id}
    (again.folder / "new" / "\u00e9").rename(again.folder / "moved")
    await again.hashed("moved")
    assert again.ids == {"moved": manifest.file_id}  # hashed anew, at the piece size it came with
    await again.stop()


@awaited
async def test_a_listener_that_fails_harms_nobody(rig: Rig) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(name)

    rig.index.unsubscribe(rig.told.append)
    rig.index.subscribe(fail)
    rig.index.subscribe(rig.told.append)
    (rig.folder / "a").write_bytes(b"x")
    await rig.start()
    await rig.until(lambda: rig.told == ["a"])


@pytest.mark.parametrize("call", ["inotify", "lease"])
def test_the_kernel_has_what_is_tested_here(tmp_path: Path, call: str) -> None:
    """Without these the tests above would prove less than they say."""
    if call == "inotify":
        Inotify().close()
    else:
        (tmp_path / "a").write_bytes(b"")
        fd = os.open(tmp_path / "a", os.O_RDONLY)
        assert syscalls.has_writer(fd) is False
        os.close(fd)
