"""Where the sockets lie, and which folders are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2pd.control import paths
from p2pd.errors import RefusedError


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)


def test_default_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert paths.control_folder() == f"/tmp/p2pd-{os.geteuid()}"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert paths.control_folder() == f"{tmp_path}/p2pd-{os.geteuid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "not/absolute")
    assert paths.control_folder() == f"{tmp_path}/p2pd-{os.geteuid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert paths.socket_path("peer", 7001) == "/run/user/7/p2pd/peer-7001.sock"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/p2pd:/run/other")
    assert paths.socket_path("manager", 12000) == "/run/p2pd/manager-12000.sock"


def test_made_closed_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        paths.ensure_folder(str(tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_our_open_folder_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    paths.ensure_folder(str(tmp_path))
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_link_or_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text("")
    for name in ("link", "dangling", "file"):
        with pytest.raises(RefusedError):
            paths.ensure_folder(str(tmp_path / name))
    with pytest.raises(RefusedError):
        paths.ensure_folder(str(tmp_path / "file" / "under"))


def test_somebody_elses_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RefusedError, match="somebody else"):
        paths.ensure_folder(str(tmp_path))
    tmp_path.chmod(0o755)
    paths.ensure_parent(str(tmp_path))  # nobody but its owner can put things there
    tmp_path.chmod(0o777)
    with pytest.raises(RefusedError, match="others may write"):
        paths.ensure_parent(str(tmp_path))


def test_a_named_folder_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    paths.prepare(str(tmp_path / "x.sock"))
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    paths.prepare(str(tmp_path / "new" / "x.sock"))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError):
        paths.prepare(str(tmp_path / "file" / "x.sock"))


def test_sockets_are_listed_peers_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    for name in ("manager-12000.sock", "peer-7002.sock", "peer-900.sock", "peer-x.sock", "peer-1.txt", "z"):
        (tmp_path / name).write_text("")
    here = [item for item in paths.list_sockets() if item[2].startswith(str(tmp_path))]
    assert [item[:2] for item in here] == [("peer", 900), ("peer", 7002), ("manager", 12000)]


def test_no_folder_no_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "missing"))
    assert str(tmp_path / "missing") not in paths.socket_folders()
