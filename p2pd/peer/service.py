"""The peer's composition root: the only module that knows all concrete classes of a peer."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.application import service
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from p2pd import __version__
from p2pd.control.paths import socket_path
from p2pd.control.server import ControlService
from p2pd.errors import P2PError
from p2pd.fetch.granting import Granting
from p2pd.fetch.probing import OwnLink
from p2pd.fetch.transfer import TICK
from p2pd.model import PeerId, PeerInfo, TransferId, is_peer_id
from p2pd.net import turns
from p2pd.net.addresses import resolve
from p2pd.net.fast import FastPort
from p2pd.net.limits import Limit
from p2pd.net.listening import Listener
from p2pd.net.notify import Notifier
from p2pd.net.rounds import rounds_of
from p2pd.net.starting import start_or_exit
from p2pd.net.statedir import StateDir
from p2pd.peer.activity import Activity
from p2pd.peer.budgets import Budgets
from p2pd.peer.circle import Circle
from p2pd.peer.commands import Commands, RunTime
from p2pd.peer.contacts import Contacts
from p2pd.peer.conversation import Conversation
from p2pd.peer.doctor import Facts
from p2pd.peer.downloads import Downloads
from p2pd.peer.receiving import BufferPool
from p2pd.peer.serving import Counter, Serving
from p2pd.peer.stock import Stock
from p2pd.peer.uplink import Uplink
from p2pd.peer.upload import Upload
from p2pd.share.cache import ManifestCache
from p2pd.share.index import ShareIndex
from p2pd.share.partial import PartialStore
from p2pd.share.paths import ShareRoot
from p2pd.share.writing import Writer
from p2pd.status import DaemonStatus, TransferStatus
from p2pd.text import escape
from p2pd.wire import messages as m
from p2pd.wire.codec import prepare
from p2pd.wire.fields import is_peer_name

LEAVING = 1.0
"""Seconds that the others have to take our farewell."""

T = TypeVar("T")
log = Logger("p2pd.peer")


@attrs.frozen
class PeerConfig:
    """What a peer is told: ``port`` a number or endpoint string, ``manager`` (host, port) or None.

    ``piece_size`` in bytes for what it shares, None: by the formula of :mod:`p2pd.pieces`.
    ``neighbours`` and ``owner``, (host, port): where there are some it fetches from these only.
    """

    host: str
    port: str
    folder: Path
    manager: tuple[str, int] | None
    name: str | None
    state: Path
    advertise: str
    control: Path | None
    piece_size: int | None
    neighbours: tuple[tuple[str, int], ...]
    owner: tuple[str, int] | None
    run_time: RunTime


class PeerService(service.Service):
    """A running peer. Also the ``Household`` of its downloads, the ``Shop`` of its conversations,
    and what answers the control socket's commands.
    """  # fmt: skip

    root: ShareRoot
    index: ShareIndex
    store: PartialStore
    contacts: Contacts
    link: OwnLink
    stock: Stock
    downloads: Downloads

    def __init__(self, reactor: Any, config: PeerConfig) -> None:
        self._reactor = reactor
        self._config = config
        self._notifier = Notifier(reactor, os.environ)
        self.activity = Activity(config.run_time.activity)
        self.config_problem = ""
        self.pool = BufferPool()
        self.writer = Writer(reactor.callFromThread, reactor.callLater)
        self.budgets = Budgets()
        self.granting = Granting(
            Counter(), later=lambda work: rounds_of(reactor).soon(lambda: self._tick(lambda now: work()))
        )
        self.up, self.down = Limit(reactor), Limit(reactor)
        self._set_limits(config.run_time)
        self.label = config.name or ""
        self.ban_seconds = config.run_time.ban
        self._problems: list[str] = []
        self._uplink: Uplink | None = None
        self._circle: Circle | None = None
        self._control: ControlService | None = None
        self._listener: Listener | None = None
        self._state: StateDir | None = None
        self._cache: ManifestCache | None = None
        self._loops: list[LoopingCall] = []
        self._starting: Deferred[None] | None = None
        self._id = PeerId("0" * 32)
        self._port = 0
        self._hosts: tuple[str, ...] = ()
        self._sweep_due = False
        self._up = False
        self._opened = False

    # Life

    def startService(self) -> None:
        """Open state, share and sockets; a failure ends the process with a sentence."""
        service.Service.startService(self)
        # Nothing comes in a pause: what was gathered need not wait for more.
        rounds_of(self._reactor).tell(self.writer.flush)
        self._starting = start_or_exit(self._reactor, self._start())

    async def _start(self) -> None:
        config = self._config
        self._state = StateDir.open(config.state)
        self._id = _identity(self._state.path)
        self.root = ShareRoot.open(os.fspath(config.folder), create=True)
        self.root.hide(os.fspath(self._state.path))
        self._cache = ManifestCache(os.fspath(self._state.private("manifests.sqlite")))
        self.store = PartialStore(self.root)
        self._opened = True
        self.index = ShareIndex(
            self.root, self._cache, clock=self._reactor, in_thread=self.in_thread,
            from_thread=self._reactor.callFromThread, piece_size=config.piece_size,
        )  # fmt: skip
        self.contacts = Contacts(
            self._reactor, maximum=config.run_time.maximum, hello=self._hello, serve=self._serve,
            listed=lambda: self._uplink.peers if self._uplink is not None else {}, changed=self._somebody_new,
            down=self.down,
        )  # fmt: skip
        self.link = OwnLink(self.contacts.traffic, self.down.exceeded)
        self.stock = Stock(
            self.index, self.granting, now=self.now, later=self._reactor.callLater,
            company=self.contacts.conversations, about=self.contacts.about,
        )  # fmt: skip
        if config.neighbours or config.owner is not None:
            self._circle = Circle(
                self.contacts, self._resolve, neighbours=config.neighbours, owner=config.owner
            )  # fmt: skip
        self.downloads = Downloads(self)
        prepare(m.PEER_TO_PEER)
        self._listener = Listener(self._reactor, config.host, config.port, self.contacts, FastPort)
        listening = await self._listener.start()
        self._port, self._hosts = listening.port, listening.hosts
        self.label = config.name or f"{socket.gethostname() or 'peer'}-{self._port}"
        if not is_peer_name(self.label):
            raise P2PError(f"{escape(self.label)!r} cannot be a peer's name")
        path = config.control or Path(socket_path("peer", self._port))
        self._control = ControlService(self._reactor, os.fspath(path), Commands(self), "peer")
        await self._control.start()
        # Only once signals are taken: who reads this line may send one.
        self._reactor.callWhenRunning(
            log.info, "{name}: {reach}", name=escape(self.label), reach=listening.reach
        )
        self._reactor.callWhenRunning(self._notifier.ready, lambda: escape(self.status().summary))
        await self.index.start()
        self._up = True
        ticks = ((TICK, self._tick_downloads), (TICK, self.granting.tick), (1.0, self.contacts.tick))
        for interval, tick in ticks:
            loop = LoopingCall(self._tick, tick)
            loop.clock = self._reactor
            loop.start(interval, now=False)
            self._loops.append(loop)
        if config.manager is not None:
            self._uplink = Uplink(
                self._reactor, *config.manager, announce=self._announce, on_change=self._somebody_new,
                load_cookie=self._load_cookie, save_cookie=self._save_cookie,
            )  # fmt: skip
            self._uplink.start()
        # Not awaited: hashing what is held may take long, and is called off by the downloads' own stop.
        ensureDeferred(self._go_on()).addErrback(lambda failure: log.failure("loading transfers", failure))

    async def _go_on(self) -> None:
        for problem in await self.downloads.load():
            log.warn("{problem}", problem=escape(problem))
            self._problems.append(problem)

    def _tick(self, tick: Callable[[float], None]) -> None:
        try:
            tick(self.now())
        except Exception:
            # One bad moment must not end all later ones, as it would in a LoopingCall.
            log.failure("tick")

    async def _stop(self) -> None:
        self._notifier.stopping()
        was_up, self._up = self._up, False
        for loop in self._loops:
            if loop.running:
                loop.stop()
        if self._listener is not None:
            await self._listener.stop()
        farewells = []
        if self._uplink is not None:
            farewells.append(ensureDeferred(self._uplink.stop()))
        if was_up:
            await self.downloads.stop()
            farewells.append(ensureDeferred(self.contacts.stop(LEAVING)))
            farewells.append(ensureDeferred(self.index.stop()))
        await DeferredList(farewells, consumeErrors=True)
        await self.writer.stop()
        if self._control is not None:
            await self._control.stop()
        if self._cache is not None:
            self._cache.close()
        if self._opened:
            self.store.close()
            self.root.close()
        if self._state is not None:
            self._state.close()

    def stopService(self) -> Deferred[None]:
        """Leave the network; what is unfinished is kept for the next start."""
        service.Service.stopService(self)
        rounds_of(self._reactor).tell_no_more(self.writer.flush)
        if self._starting is not None:
            self._starting.cancel()
        return ensureDeferred(self._stop())

    def change(self, settings: RunTime) -> None:
        """Go on with these; a new limit closes nobody's connection, a new ban counts for new transfers."""
        self._config = attrs.evolve(self._config, run_time=settings)
        self.activity.on = settings.activity
        self.ban_seconds = settings.ban
        self._set_limits(settings)
        if self._opened:
            self.contacts.door.limit = settings.maximum

    def _set_limits(self, settings: RunTime) -> None:
        for limit, rate in ((self.up, settings.up), (self.down, settings.down)):
            if limit.rate != rate:
                limit.change(rate)

    # What the parts are given

    def now(self) -> float:
        """Monotonic seconds."""
        return float(self._reactor.seconds())

    def later(self, seconds: float) -> Deferred[None]:
        """Fires after so many seconds."""
        return deferLater(self._reactor, seconds)

    def in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        """Run blocking work in the reactor's thread pool."""
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), turns.usual, work)

    def listed(self) -> Mapping[PeerId, PeerInfo]:
        """Whom the manager lists; nobody while it is away, when others may know less than we."""
        uplink = self._uplink
        return uplink.peers if uplink is not None and uplink.state == "connected" else {}

    def roster_known(self) -> bool:
        """True once the manager has told who is here, or there is none."""
        if self._circle is not None:
            return self._circle.known
        return self._uplink is None or self._uplink.had_list

    def may_fetch_from(self, peer: PeerInfo) -> bool:
        """False where this peer was told to fetch from others only."""
        return self._circle is None or self._circle.allows(peer)

    def asks_anew(self) -> None:
        """A file is about to be asked for: whom it may be fetched from is looked for at once."""
        if self._circle is not None:
            self._circle.renew()

    def sparing(self, peer: PeerId) -> bool:
        """Whether of that peer only what nobody was given yet is wanted."""
        return self._circle is not None and self._circle.sparing(peer)

    def _resolve(self, host: str) -> Deferred[str]:
        return self.in_thread(lambda: resolve(host))

    def _tick_downloads(self, now: float) -> None:
        if self._circle is not None and self.downloads.count:
            self._circle.sweep(now)
        self.downloads.tick(now)

    def download_ended(self, transfer: TransferId, status: TransferStatus) -> None:
        """For the list of ended transfers."""
        self.downloads.download_ended(transfer, status)

    def upload_ended(self, upload: Upload, name: str, done: bool) -> None:
        """For the list of ended transfers."""
        self.downloads.upload_ended(upload, name, done)
        log.info(
            "{file}: sent {size} bytes to {name}",
            file=escape(upload.name), size=upload.bytes, name=name, often=True,
        )  # fmt: skip

    def uploads(self) -> Iterator[tuple[str, Upload]]:
        """What goes out, with the other's name."""
        for conversation in self.contacts.conversations():
            for upload in conversation.serving.uploads.values():
                if upload.bytes or upload.busy:
                    yield conversation.name, upload

    def _serve(self, conversation: Conversation) -> Serving:
        return Serving(conversation, self)

    def _hello(self) -> m.Hello:
        return m.Hello(*m.VERSION, self._id, self.label, self._port)

    def _announce(self) -> m.NewPeer:
        return m.NewPeer(
            *m.VERSION, self._id, self.label, self._port, list(self._hosts), self._config.advertise, ""
        )

    def _somebody_new(self) -> None:
        # Called often in a storm of joins: look once per turn of the reactor.
        if self._up and not self._sweep_due:
            self._sweep_due = True
            self._reactor.callLater(0, self._sweep)

    def _sweep(self) -> None:
        self._sweep_due = False
        if self._up:
            self._tick(self._tick_downloads)

    def _load_cookie(self) -> str:
        assert self._state is not None
        try:
            return (self._state.path / "cookie").read_text("ascii").strip()[:128]
        except (OSError, ValueError):
            return ""

    def _save_cookie(self, cookie: str) -> None:
        assert self._state is not None
        with contextlib.suppress(OSError):  # without it we are a new peer next time, no more
            _write_private(self._state.path / "cookie", cookie)

    def others(self) -> list[PeerInfo]:
        """Part of :class:`~p2pd.peer.commands.Daemon`."""
        return list(self._uplink.peers.values()) if self._uplink is not None else self.contacts.active()

    # What the commands are given

    @property
    def run_time(self) -> RunTime:
        """Part of :class:`~p2pd.peer.commands.Daemon`."""
        return self._config.run_time

    def facts(self) -> Facts:
        """Part of :class:`~p2pd.peer.commands.Daemon`."""
        assert self._state is not None
        return Facts(
            reactor=self._reactor, in_thread=self.in_thread, share=self.root.path, state=self._state.path,
            hosts=self._hosts, port=self._port, maximum=self.contacts.door.limit, name=self.label,
            manager=self._uplink, problems=[*self._problems, self.config_problem, *self.index.problems],
            others=self.others(), visitors=self.contacts.visitors,
        )  # fmt: skip

    def leave(self) -> None:
        """Part of :class:`~p2pd.peer.commands.Daemon`."""
        self._reactor.callLater(0, self._reactor.stop)

    def status(self) -> DaemonStatus:
        """The daemon at a glance."""
        uplink = self._uplink
        return DaemonStatus(
            role="peer", name=self.label, host=self._hosts[0] if self._hosts else self._config.host,
            port=self._port, manager=uplink.state if uplink is not None else "none",
            peers=len(self.others()), files=self.index.count,
            transfers=self.downloads.count + sum(1 for _ in self.uploads()), version=__version__,
            pid=os.getpid(),
            problems=tuple(self._all_problems()),
        )  # fmt: skip

    def _all_problems(self) -> Iterator[str]:
        yield from self._problems
        if self.config_problem:
            yield self.config_problem
        if self._uplink is not None:
            yield from self._uplink.problems
        yield from self.index.problems


def _identity(folder: Path) -> PeerId:
    """The peer id kept in the state folder; a lost or damaged one is made anew."""
    path = folder / "id"
    try:
        text = path.read_text("ascii").strip()
    except (OSError, ValueError):
        text = ""
    if not is_peer_id(text):
        text = secrets.token_hex(16)
        with contextlib.suppress(OSError):  # a full disk: this run has an id all the same
            _write_private(path, text)
    return PeerId(text)


def _write_private(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
