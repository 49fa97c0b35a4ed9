"""p2pd as a contender: a manager, holders and a receiving peer, up before anything is timed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from benchmarks.contender import Contender
from tests.rig.host import BIN, Daemon, Host, wait_until

PATIENCE = 600.0


def new_host(folder: Path) -> Host:
    """A machine of its own below ``folder``, whose Python keeps what it compiled, as installed ones do."""
    host = Host(folder)
    host.env.pop("PYTHONDONTWRITEBYTECODE", None)
    return host


class Swarm:
    """Daemons of a host of their own, in a folder of the same file system as the original."""

    def __init__(self, host: Host, original: Path, holders: int) -> None:
        self.host = host
        self.name = original.name
        self.manager = host.manager()
        self.holders: list[Daemon] = []
        for number in range(holders):
            share = host.folder / f"holder{number}"
            share.mkdir()
            os.link(original, share / self.name)
            self.holders.append(host.peer(share.name, manager=self.manager))
        for holder in self.holders:
            wait_hashed(holder, 1)
        self.receiver = host.peer("receiver", manager=self.manager)
        self.receiver.wait_peers(holders)
        self._mark = 0

    @property
    def made(self) -> Path:
        return self.host.folder / "receiver" / self.name

    @property
    def command(self) -> list[str]:
        return [str(BIN / "p2pctl"), "--port", str(self.receiver.port), "req", self.name]

    def contender(self, key: str, title: str, *, probed: bool = False) -> Contender:
        sockets = {"sender": self.holders[0].socket_path, "receiver": self.receiver.socket_path}
        return Contender(
            key, title, self.command, self.made, self.host.env,
            senders=lambda: [daemon.pid for daemon in (self.manager, *self.holders)],
            receivers=lambda: [self.receiver.pid],
            before=self._before, after=self._forgotten, data_seconds=self._data_seconds,
            probed=sockets if probed else None,
        )  # fmt: skip

    def _before(self) -> None:
        self._mark = len(self.receiver.console.lines)

    def _forgotten(self) -> None:
        wait_until(lambda: not self.receiver.ask("files").items, "the copy is forgotten", PATIENCE)

    def _data_seconds(self) -> float:
        """By the receiver's console: from its first ``asked for`` of data to its last ``received``."""
        console, mark, name = self.receiver.console, self._mark, re.escape(self.name)

        def at(pattern: str) -> list[float]:
            lines = console.lines[mark:]
            return [console.times[mark + n] for n, line in enumerate(lines) if re.search(pattern, line)]

        wait_until(lambda: at(rf"\] {name}: \d+ bytes in "), "the summary on the console", PATIENCE)
        first = at(rf"asked for (piece|range) \S+ of {name} ")[0]
        return at(rf"received (piece|range) \S+ of {name} ")[-1] - first


def wait_hashed(daemon: Daemon, files: int, every: float = 0.05) -> None:
    """Until so many files are shared and hashed; asked every ``every`` seconds."""
    wait_until(
        lambda: sum(1 for item in daemon.ask("files", PATIENCE).items if item["id"]) >= files,
        f"{files} files hashed", PATIENCE, every,
    )  # fmt: skip
