from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pd.errors import ConflictError, StorageError
from p2pd.model import Manifest
from p2pd.pieces import Bitfield
from p2pd.share import syscalls
from p2pd.share.partial import PartialFile, PartialStore
from p2pd.share.paths import ShareRoot

from .conftest import ALL, DATA, JOB, MANIFEST, load, ours


@pytest.mark.fault(48)
def test_no_room_is_said_before_anything_is_written(share: ShareRoot, store: PartialStore) -> None:
    huge = Manifest(2**62, 2**50, bytes(32) * 4096)
    with pytest.raises(StorageError, match=f"needs {2**62} bytes, [0-9]+ are free"):
        store.begin(JOB, huge)
    assert not ours(share, "part").exists()


def test_what_is_there_already_needs_no_room(
    store: PartialStore, partial: PartialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.fsync(partial.fd)  # until then a file system may not say what it takes
    real = os.fstatvfs

    def full(fd: int) -> os.statvfs_result:
        values = list(real(fd))
        values[4] = 0
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "fstatvfs", full)
    store.begin(partial.job, MANIFEST).close()


@pytest.mark.fault(51)
def test_short_writes_are_gone_on_with(partial: PartialFile, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    partial.write(3, bytes(100))
    assert os.pread(partial.fd, 104, 2) == DATA[2:3] + bytes(100) + DATA[103:106][:3]


@pytest.mark.fault(51)
@pytest.mark.parametrize("most", [1, 7, 30, 60])
def test_short_writes_of_several_are_gone_on_with(
    partial: PartialFile, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:most], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: real(fd, b"".join(views)[:most], at))
    new = os.urandom(100)
    partial.writev(3, [memoryview(new)[:30], memoryview(new)[30:31], memoryview(new)[31:]])
    assert os.pread(partial.fd, 102, 2) == DATA[2:3] + new + DATA[103:104]


@pytest.mark.fault(48, 49)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["pwrite", "write", "fsync", "rename"])
def test_a_disk_that_fails(
    share: ShareRoot, partial: PartialFile, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, "no")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        work: dict[str, Callable[[], None]] = {
            "pwrite": lambda: partial.write(0, b"x"),
            "fsync": lambda: partial.finish("f"),
        }
        with pytest.raises(StorageError):
            work.get(call, lambda: partial.save(Bitfield(MANIFEST.count)))()
    assert not Path(share.path, "f").exists()
    [(_, manifest, held)], problems = load(share)
    assert manifest == MANIFEST
    assert held == ALL  # the state before is still there
    assert problems == []


@pytest.mark.fault(50)
def test_a_failed_fsync_is_not_tried_again_as_a_success(
    share: ShareRoot, store: PartialStore, partial: PartialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(StorageError):
            partial.finish("f")
    with pytest.raises(StorageError, match="checked again"):
        partial.finish("f")
    assert not Path(share.path, "f").exists()
    partial.close()
    again = store.begin(partial.job, MANIFEST)
    assert again.rehash(ALL) == ALL
    again.finish("f")
    again.close()


@pytest.mark.fault(56, 57)
@pytest.mark.parametrize("there", ["file", "link", "folder"])
def test_a_name_that_is_taken_keeps_the_transfer(share: ShareRoot, partial: PartialFile, there: str) -> None:
    final = Path(share.path, "f")
    if there == "file":
        final.write_bytes(DATA)  # even of the same content and size
    elif there == "link":
        final.symlink_to("/etc/passwd")
    else:
        final.mkdir()
    with pytest.raises(ConflictError):
        partial.finish("f")
    [(_, _, held)], _ = load(share)
    assert held == ALL
    partial.finish("g")
    assert Path(share.path, "g").read_bytes() == DATA


class Killed(BaseException):
    pass


class Bomb:
    def __init__(self, calls: int) -> None:
        self.left = calls

    def wired_to(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if self.left == 0:
                raise Killed
            self.left -= 1
            return real(*args, **named)

        return call


@pytest.mark.fault(52)
@pytest.mark.parametrize("way", ["renameat2", "link"])
def test_a_kill_at_every_step_of_finishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A call that raises stands for the kill: nothing after it is done, and memory is forgotten."""
    if way == "link":

        def refuse(*_: object) -> None:
            raise OSError(errno.EINVAL, "no such flag")

        monkeypatch.setattr(syscalls, "rename_noreplace", refuse)
    calls = [(os, name) for name in ("open", "mkdir", "fsync", "rename", "write", "unlink", "link")]
    calls.append((syscalls, "rename_noreplace"))
    kills = 0
    for when in range(1000):
        root = ShareRoot.open(str(tmp_path / f"share{when}"))
        store = PartialStore(root)
        partial = store.begin(JOB, MANIFEST)
        partial.write(0, DATA)
        partial.save(ALL)
        bomb = Bomb(when)
        killed = False
        with monkeypatch.context() as deadly:
            for module, name in calls:
                deadly.setattr(module, name, bomb.wired_to(getattr(module, name)))
            try:
                partial.finish(JOB.name)
                store.discard(JOB.transfer)
            except Killed:
                killed = True
        partial.close()
        store.close()
        final = Path(root.path, JOB.name)
        jobs, problems = load(root)
        assert problems == []
        if jobs:
            [(_, manifest, held)] = jobs
            assert manifest == MANIFEST
            assert held == ALL
            assert not final.exists()
            store = PartialStore(root)
            again = store.begin(jobs[0][0], MANIFEST)
            assert again.rehash(ALL) == ALL
            again.finish(JOB.name)
            store.discard(JOB.transfer)
            again.close()
            store.close()
        assert final.read_bytes() == DATA
        assert final.stat().st_nlink == 1
        assert os.listdir(f"{root.path}/.p2pd") == []
        root.close()
        if not killed:
            break
        kills += 1
    assert kills > 10


@pytest.mark.fault(27, 57)
@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_folder_of_ours_that_is_none(share: ShareRoot, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    if kind == "link":
        Path(share.path, ".p2pd").symlink_to(outside)
    else:
        Path(share.path, ".p2pd").write_bytes(b"")
    with pytest.raises(StorageError):
        PartialStore(share).save_job(JOB)
    with pytest.raises(StorageError):
        load(share)
    assert list(outside.iterdir()) == []


@pytest.mark.fault(57)
def test_links_and_fifos_in_the_place_of_our_files(
    share: ShareRoot, store: PartialStore, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    store.save_job(JOB)
    ours(share, "part").symlink_to(secret)
    with pytest.raises(StorageError):
        store.begin(JOB, MANIFEST)
    ours(share, "state").unlink()
    os.mkfifo(ours(share, "state"))
    jobs, problems = load(share)
    assert jobs == []
    assert len(problems) == 1
    assert secret.read_bytes() == b"secret"


@pytest.mark.fault(58)
def test_a_share_that_cannot_be_written(share: ShareRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "no")

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(StorageError, match="read-only"):
        PartialStore(share).save_job(JOB)
    assert load(share) == ([], [])
