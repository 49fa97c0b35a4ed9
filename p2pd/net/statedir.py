"""The state folder of a daemon: closed to others, and locked against a second daemon."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

import platformdirs

from p2pd.errors import RefusedError, StorageError


def default_state_dir(name: str) -> Path:
    """Where state lies without ``--state``: ``$STATE_DIRECTORY`` (systemd), else by XDG in ``p2pd/NAME``.

    ``name`` tells daemons of one user apart (``manager-12000``); systemd gives
    each unit a folder of its own.
    """
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    return Path(platformdirs.user_state_dir("p2pd", appauthor=False)) / name


class StateDir:
    """A locked state folder; :meth:`open` makes one. The lock goes with the process, or by :meth:`close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    @classmethod
    def open(cls, path: Path) -> StateDir:
        """Make the folder (0700) where it is missing, close it to others, and lock it.

        RefusedError where another daemon has it or it is another user's,
        StorageError where it cannot be made.
        """
        path = path.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.stat()
            if status.st_uid != os.geteuid():
                raise RefusedError(f"the state folder {path} belongs to another user")
            if stat.S_IMODE(status.st_mode) & 0o077:
                path.chmod(0o700)
            for each in path.iterdir():  # of a version that was less careful
                if not each.is_symlink() and stat.S_IMODE(each.stat().st_mode) & 0o077:
                    each.chmod(stat.S_IMODE(each.stat().st_mode) & 0o700)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StorageError(f"cannot use the state folder {path}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            who = f"process {holder}" if holder.isascii() and holder.isdigit() else "another daemon"
            raise RefusedError(
                f"the state folder {path} is in use by {who}; give this one its own by --state"
            ) from None
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, only its sentence is poorer
        return cls(path, lock)

    def private(self, name: str) -> Path:
        """A file in it, made 0600 where it is missing, for a library that would make it by the umask.

        What SQLite lays beside a database gets the database's mode.
        """
        path = self.path / name
        with contextlib.suppress(OSError):  # a full disk: whoever opens it says so
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        return path

    def close(self) -> None:
        """Let another daemon have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
