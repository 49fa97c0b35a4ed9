"""The manager put together: the only module here that knows concrete classes."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from p2pd import __version__
from p2pd.control.paths import socket_path
from p2pd.control.server import ControlService, Emit
from p2pd.manager.hub import Hub
from p2pd.manager.protocol import ManagerFactory
from p2pd.manager.registry import Registry
from p2pd.manager.stores.interface import IStore
from p2pd.manager.stores.memory import MemoryStore
from p2pd.manager.stores.sqlite import SqliteStore
from p2pd.manager.table import Table
from p2pd.model import PeerInfo
from p2pd.net import health
from p2pd.net.addresses import is_loopback, is_own
from p2pd.net.listening import Listener, Listening
from p2pd.net.notify import Notifier
from p2pd.net.starting import start_or_exit
from p2pd.net.statedir import StateDir, default_state_dir
from p2pd.status import Check, DaemonStatus, PeerStatus
from p2pd.wire.messages import LeftPeer

log = Logger()

FAREWELL = 1.0
"""Seconds that peers have at a stop to take what was sent and close."""
DATABASE = "peers.sqlite"


@attrs.frozen
class ManagerConfig:
    """The checked options: ``limit`` of connections, ``lease`` in seconds; None: the default place."""

    host: str = "localhost"
    port: str = "12000"
    limit: int = 1000
    lease: int = 30
    state: Path | None = None
    control: str | None = None


class ManagerService(Service):
    """The manager as a service; ``stop_daemon`` is called by the command that ends it.

    After it has started: ``listening``. A start that fails ends the process
    with one sentence (:func:`p2pd.net.starting.start_or_exit`).
    """

    def __init__(self, reactor: Any, config: ManagerConfig, stop_daemon: Callable[[], None]) -> None:
        self.name = "p2pmanager"
        self.config_problem = ""
        self.listening: Listening | None = None
        self._reactor = reactor
        self._clock = cast(IReactorTime, reactor)
        self._config = config
        self._notifier = Notifier(reactor, os.environ)
        self._stop_daemon = stop_daemon
        self._starting: Deferred[None] | None = None
        self._state: StateDir | None = None
        self._store: IStore = MemoryStore()
        self._control: ControlService | None = None
        self._table = Table(self._clock, self._table_rows)
        self.registry = Registry(config.lease, is_own)
        self.hub = Hub(self._clock, self.registry, time.time, self._table.changed)
        self._factory = ManagerFactory(self._clock, self.hub, config.limit)
        self._listener = Listener(reactor, config.host, config.port, self._factory)

    def startService(self) -> None:
        """Begin; SystemExit with a sentence where it fails at once."""
        super().startService()  # type: ignore[no-untyped-call]
        self._starting = start_or_exit(self._reactor, self._start())

    def stopService(self) -> Deferred[None]:
        """Say goodbye to the peers, save, and remove the control socket last; at most about 3 s."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    def snapshot(self) -> DaemonStatus:
        """The manager at a glance."""
        listening = self.listening
        return DaemonStatus(
            role="manager",
            name=f"manager-{listening.port}" if listening else "manager",
            host=listening.hosts[0] if listening else "",
            port=listening.port if listening else 0,
            manager="none",
            peers=len(self.registry),
            files=0,
            transfers=0,
            version=__version__,
            pid=os.getpid(),
            problems=tuple(each for each in (self.config_problem, self._store.problem) if each),
        )

    def change(self, limit: int, lease: int) -> None:
        """Go on with these: a new limit closes nobody's connection, a new lease counts for who joins now."""
        self._factory.door.limit = limit
        self.registry.lease = lease

    # The commands of the control socket

    async def cmd_status(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        """The object of `status`."""
        return self.snapshot().to_json()

    async def cmd_peers(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        """The active peers, by the addresses at which this machine finds them."""
        return {"rows": [PeerStatus(p.name, p.host, p.port, p.id).to_json() for p in self.hub.peers]}

    async def cmd_doctor(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        """What commonly goes wrong with a manager."""
        listening = self.listening
        checks = [health.descriptors(self._factory.door.limit), *health.others(self.snapshot().problems)]
        if self._state is not None:
            checks.append(health.room("state", os.fspath(self._state.path)))
        if listening is not None and all(map(is_loopback, listening.hosts)):
            text = "listens on loopback only: peers on other machines cannot reach it"
            checks.append(Check("reach", "warning", text, "if there are any, start it with --host 0.0.0.0"))
        else:
            checks.append(Check("reach", "ok", listening.reach if listening is not None else ""))
        return {"rows": [check.to_json() for check in checks]}

    async def cmd_left_peer(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        """Stop the manager, after the answer."""
        self._clock.callLater(0, self._stop_daemon)
        return {}

    # Inside

    async def _start(self) -> None:
        # All up to the store happens before the reactor runs, so that nobody
        # is answered by a manager that will not be one.
        listening = await self._listener.start()
        self.listening = listening
        state = self._state_path()
        if state is not None:
            self._state = StateDir.open(state)
            self._store = SqliteStore(self._reactor, self._state.private(DATABASE))
        path = self._config.control or socket_path("manager", listening.port)
        control = ControlService(self._reactor, path, self, "manager")
        await control.start()
        self._control = control
        self.hub.start()
        await self._store.open()
        self.registry.remember((each.id, each.cookie_hash) for each in await self._store.load())
        self.hub.keep_in(self._store)
        self._factory.begin()
        # Whoever reads this line may send a signal: then the reactor must run.
        self._reactor.callWhenRunning(log.info, "{reach}", reach=listening.reach)
        self._reactor.callWhenRunning(self._notifier.ready, lambda: self.snapshot().summary)

    def _state_path(self) -> Path | None:
        if self._config.state is not None:
            return self._config.state
        if self._config.port == "0" and not os.environ.get("STATE_DIRECTORY"):
            return None  # on another port next time: nobody can come back to it
        return default_state_dir("manager-" + re.sub(r"[^A-Za-z0-9.]+", "-", self._config.port))

    async def _stop(self) -> None:
        self._notifier.stopping()
        if self._starting is not None:
            self._starting.cancel()
        await self._listener.stop()
        await self._say_goodbye()
        await self.hub.stop()
        self._table.stop()
        await self._store.close()
        if self._state is not None:
            self._state.close()
        if self._control is not None:
            await self._control.stop()

    async def _say_goodbye(self) -> None:
        left = []
        for protocol in list(self._factory.protocols):
            left.append(protocol.when_lost())
            protocol.send(LeftPeer())
            protocol.close()
        # Cancelling it ends the waiting for those that do not close.
        gone = DeferredList(left, consumeErrors=True)
        deadline = self._clock.callLater(FAREWELL, gone.cancel)
        await gone
        if deadline.active():
            deadline.cancel()
        for protocol in list(self._factory.protocols):
            protocol.abort()

    def _table_rows(self) -> Sequence[tuple[PeerInfo, float]]:
        return [(info, self.hub.since[info.id]) for info in self.hub.peers]
