"""What must hold for every case of the catalogue, whatever was done to the daemon.

It answers another client's `req` in time; descriptors and memory return to where
they were; the tree outside the share is unchanged; a file under its final name is
absent or equal to the original; there is no unhandled traceback.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

import attrs

from tests.rig.host import Daemon, Host, wait_until

ANSWER = 1.0 * float(os.environ.get("P2PD_SLOWNESS", "5"))
"""Seconds in which another client is answered: 1 s, times what a busy test machine is slower."""
MEMORY = 48 * 2**20
"""Bytes by which memory may stay above the baseline: allocators keep some."""
CANARY = ("canary/secret.txt", "canary/deep/er/key", "canary/link")


@attrs.define
class Oracle:
    """Made before the attack, asked after it by :meth:`check`."""

    host: Host
    daemons: list[Daemon]
    expected: dict[str, bytes] = attrs.Factory(dict)
    """Final names in any share, and what they must hold where they are."""
    _fds: dict[int, int] = attrs.Factory(dict)
    _rss: dict[int, int] = attrs.Factory(dict)
    _tree: str = ""
    canary: Path = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.canary = self.host.folder / "outside"
        for name in CANARY[:2]:
            path = self.canary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(100))
        (self.canary / CANARY[2]).unlink(missing_ok=True)
        (self.canary / CANARY[2]).symlink_to("secret.txt")
        self._tree = tree_digest(self.canary)
        self.rebase()

    def rebase(self) -> None:
        """Take the baseline again: after a daemon was restarted on purpose."""
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                self._fds[id(daemon)] = daemon.fds()
                self._rss[id(daemon)] = daemon.rss()

    def warm(self) -> Oracle:
        """Let every daemon ask once before the baseline: connections among them are part of it."""
        for daemon in self.daemons:
            self.answers(daemon)
        self.rebase()
        return self

    def relinked(self) -> Oracle:
        """As :meth:`warm`, once all have a link to the manager: one still being made would be missing."""
        for daemon in self.host.daemons:
            if daemon.role == "p2ppeer" and daemon.process.poll() is None:
                wait_until(partial(_linked, daemon), "the link to the manager is made")
        return self.warm()

    def answers(self, daemon: Daemon) -> None:
        """Another client's `req` is answered in time."""
        result = daemon.ask("req there/is/no.such", ANSWER) if daemon.role == "p2ppeer" else None
        if result is not None:
            assert result.code == "not-found"
        else:
            daemon.ask("status", ANSWER).done  # noqa: B018

    def check(self) -> None:
        """Everything, of all daemons that run."""
        for daemon in self.daemons:
            assert daemon.process.poll() is None, f"the daemon died\n{daemon.console.text()[-4000:]}"
            self.answers(daemon)
            allowed = self._fds[id(daemon)]
            wait_until(partial(_few_fds, daemon, allowed + 2), "descriptors are given back", 75)
            limit = self._rss[id(daemon)] + MEMORY
            assert daemon.rss() < limit, f"{daemon.rss()} bytes of memory, {limit} at most"
        for daemon in self.host.daemons:
            text = daemon.console.text()
            for sign in ("Traceback", "Unhandled"):
                assert sign not in text, text[max(0, text.index(sign) - 3000) :][:9000]
        assert tree_digest(self.canary) == self._tree, "the tree outside the share was changed"
        for daemon in self.host.daemons:
            for name, content in self.expected.items():
                if daemon.share is not None and (daemon.share / name).is_file():
                    found = hashlib.sha256((daemon.share / name).read_bytes()).hexdigest()
                    assert found == hashlib.sha256(content).hexdigest(), f"{name} is not the original"


def _linked(daemon: Daemon) -> bool:
    return bool(daemon.status()["manager"] != "connecting")


def _few_fds(daemon: Daemon, limit: int) -> bool:
    return daemon.fds() <= limit


def tree_digest(folder: Path) -> str:
    """Names, kinds, modes and contents of everything below ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        digest.update(f"{path.relative_to(folder)}\0{status.st_mode}\0{status.st_size}\0".encode())
        if path.is_symlink():
            digest.update(os.readlink(path).encode())
        elif path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()
