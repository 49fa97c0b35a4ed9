import os
import stat
from pathlib import Path

import pytest

from p2pd.errors import RefusedError, StorageError
from p2pd.net.statedir import StateDir, default_state_dir


@pytest.mark.fault(93)
def test_locked_against_a_second_daemon(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    first = StateDir.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with pytest.raises(RefusedError, match=f"process {os.getpid()}"):
        StateDir.open(path)
    first.close()
    first.close()
    StateDir.open(path).close()


def test_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    StateDir.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="state folder"):
        StateDir.open(tmp_path / "file")


def test_a_planted_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(StorageError):
        StateDir.open(tmp_path)
    assert not (tmp_path / "target").exists()


def test_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert default_state_dir("manager-1") == tmp_path / "p2pd" / "manager-1"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/p2pd:/other")
    assert str(default_state_dir("x")) == "/var/lib/p2pd"
