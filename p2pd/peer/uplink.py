"""A peer's link to its manager: announces it, keeps the list of the others, comes back when it is lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from p2pd.errors import P2PError, ProtocolError, RefusedError
from p2pd.model import PeerId, PeerInfo
from p2pd.net.addresses import canonical_host, is_loopback, join_host_port
from p2pd.net.lines import MessageProtocol
from p2pd.net.reasons import why
from p2pd.peer.peerlist import PeerList
from p2pd.text import escape
from p2pd.wire.messages import (
    MANAGER_TO_PEER,
    Changes,
    Error,
    LeftPeer,
    ListPeers,
    Message,
    NewPeer,
    Peers,
    Ping,
    Pong,
    Welcome,
)

log = Logger()

CONNECT_WITHIN = 5.0
WELCOME_WITHIN = 10.0
"""Seconds from the connection to the end of the first list."""
FIRST_PAUSE = 0.3
"""Seconds before the first retry, at most; each further one waits twice as long, up to LONGEST_PAUSE."""
LONGEST_PAUSE = 10.0
LONGEST_LEASE = 300.0
"""Seconds of silence after which a manager is taken for dead, however long a lease it gives."""
FAREWELL = 1.0


class _Link(MessageProtocol):
    """One connection; everything that matters is the uplink's."""

    def __init__(self, uplink: Uplink, clock: IReactorTime) -> None:
        super().__init__(clock, MANAGER_TO_PEER)
        self._uplink = uplink

    @property
    def dialled(self) -> str:
        """Where the manager was reached; any loopback is 127.0.0.1, where wildcard listeners are too."""
        host = canonical_host(self._tcp.getPeer().host)
        return "127.0.0.1" if is_loopback(host) else host

    def opened(self) -> None:
        self._uplink._opened(self)

    def bytes_received(self) -> None:
        self._uplink._heard()

    def message_received(self, message: Message) -> None:
        self._uplink._received(message)

    def closed(self, reason: P2PError | None) -> None:
        self._uplink._closed(self, reason)


class Uplink:
    """Keeps one connection to the manager at ``host``:``port`` from :meth:`start` to :meth:`stop`.

    ``announce`` gives what to say now (its cookie does not count: that is
    ``load_cookie()``'s, and ``save_cookie`` is told of a new one).
    ``on_change`` is called when ``peers``, ``state``, ``problems`` or
    ``known_as`` may have changed. Nothing here raises for a manager that is
    away or misbehaves: ``problems`` tells.
    """

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        announce: Callable[[], NewPeer],
        on_change: Callable[[], None],
        *,
        load_cookie: Callable[[], str] = lambda: "",
        save_cookie: Callable[[str], None] = lambda _cookie: None,
        endpoint: IStreamClientEndpoint | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.known_as = ""
        self._clock = cast(IReactorTime, reactor)
        self._where = join_host_port(host, port)
        self._endpoint = endpoint or HostnameEndpoint(reactor, host, port, timeout=CONNECT_WITHIN)
        self._announce = announce
        self._on_change = on_change
        self._load_cookie = load_cookie
        self._save_cookie = save_cookie
        self._jitter = jitter
        self._list = PeerList(PeerId(announce().id))
        self._cookie: str | None = None
        self._running = False
        self._connecting: Deferred[Any] | None = None
        self._link: _Link | None = None
        self._listed = False
        self._asked_list = False
        self._lease = 0.0
        self._pings = 0
        self._failures = 0
        self._trouble = ""
        self._note = ""
        self._refusal = ""
        self._retry_call: IDelayedCall | None = None
        self._ping_call: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []

    # What others read

    @property
    def state(self) -> Literal["connected", "connecting"]:
        """`connected` while the manager has this peer on its list, and this peer has the list."""
        return "connected" if self._listed else "connecting"

    @property
    def where(self) -> str:
        """HOST:PORT of the manager."""
        return self._where

    @property
    def peers(self) -> Mapping[PeerId, PeerInfo]:
        """The others, as last heard; kept while the manager is away. A view: copy what must not change."""
        return self._list.peers

    @property
    def problems(self) -> list[str]:
        """Sentences for the console and `status`."""
        return [each for each in (self._trouble, self._note) if each]

    @property
    def had_list(self) -> bool:
        """True once a whole list came, ever."""
        return self._list.had_list

    def when_listed(self) -> Deferred[None]:
        """Fires when a first whole list has come (at once if it has); cancel it to wait no longer."""
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        if self.had_list:
            waiting.callback(None)
        else:
            self._waiting.append(waiting)
        return waiting

    # What the service calls

    def start(self) -> None:
        """Connect, and stay connected."""
        self._running = True
        self._connect()

    async def stop(self) -> None:
        """Leave the network; waits at most :data:`FAREWELL` seconds for the manager to close."""
        self._running = False
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.cancel()
        _cancel(self._retry_call)
        if self._connecting is not None:
            self._connecting.cancel()
        link = self._link
        if link is None:
            return
        lost = link.when_lost()
        link.send(LeftPeer())
        link.close()
        deadline = self._clock.callLater(FAREWELL, lost.cancel)
        try:
            await lost
        except CancelledError:
            link.abort()
        finally:
            _cancel(deadline)

    # Connecting

    def _connect(self) -> None:
        factory = Factory.forProtocol(lambda: _Link(self, self._clock))
        factory.noisy = False
        self._connecting = self._endpoint.connect(factory)
        self._connecting.addCallbacks(self._connected, self._not_connected)

    def _connected(self, _protocol: object) -> None:
        self._connecting = None

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if self._running:
            assert failure.value is not None
            self._pause(f"the manager at {self._where} cannot be reached: {escape(why(failure.value))}")

    def _pause(self, trouble: str) -> None:
        """Try again after a pause that grows from failure to failure."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures, 10))
        self._failures += 1
        self._retry_call = self._clock.callLater(longest * (0.5 + 0.5 * self._jitter()), self._connect)
        if trouble != self._trouble:
            log.info("{trouble}; trying again", trouble=trouble)
            self._trouble = trouble
        self._on_change()

    # One connection, told by its _Link

    def _opened(self, link: _Link) -> None:
        self._link = link
        self._refusal = ""
        self._list.connected(link.dialled)
        if self._cookie is None:
            self._cookie = self._load_cookie()
        link.send(attrs.evolve(self._announce(), cookie=self._cookie))
        self._expect(WELCOME_WITHIN)

    def _heard(self) -> None:
        if self._listed:
            self._expect(self._lease)

    def _received(self, message: Message) -> None:
        if isinstance(message, Welcome):
            self._welcomed(message)
        elif isinstance(message, Error):
            self._refusal = escape(message.message[:200])
            if self._link is not None:
                self._link.close()
        elif isinstance(message, LeftPeer):
            if self._link is not None:
                self._link.close()
        elif self._lease == 0:
            raise ProtocolError(f"{message.VERB} came before welcome")
        elif isinstance(message, Peers):
            if self._list.take_page(message):
                self._got_list()
        elif isinstance(message, Changes):
            self._got_changes(message)
        elif not isinstance(message, Pong):
            raise ProtocolError(f"{message.VERB} is not for a peer")

    def _welcomed(self, message: Welcome) -> None:
        if self._lease:
            raise ProtocolError("welcome came already")
        self._lease = min(message.lease, LONGEST_LEASE)
        self.known_as = message.host
        self._note = escape(message.problem[:300])
        if message.cookie != self._cookie:
            self._cookie = message.cookie
            try:
                self._save_cookie(message.cookie)
            except OSError as error:
                log.warn("the manager's cookie cannot be kept: {error}", error=error)
        self._keep_alive()

    def _got_list(self) -> None:
        if not self._listed:
            self._listed = True
            self._failures = 0
            self._trouble = ""
            self._expect(self._lease)
            log.info("connected to the manager at {where}", where=self._where)
            if self._note:
                log.warn("{note}", note=self._note)
        self._asked_list = False
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)
        self._on_change()

    def _got_changes(self, message: Changes) -> None:
        if self._list.take_changes(message):
            self._on_change()
        elif not self._asked_list and self._link is not None:
            self._asked_list = True
            self._link.send(ListPeers())

    def _closed(self, link: _Link, reason: P2PError | None) -> None:
        if link is not self._link:
            return
        was_listed = self._listed
        self._link = None
        self._listed = self._asked_list = False
        self._lease = 0.0
        _cancel(self._ping_call)
        _cancel(self._deadline)
        if not self._running:
            return
        if self._refusal:
            self._pause(f"the manager at {self._where} refused: {self._refusal}")
        elif isinstance(reason, ProtocolError | RefusedError):
            self._pause(f"the manager at {self._where} was dropped: {escape(reason.message[:200])}")
        else:
            if was_listed:
                self._failures = 0
            self._pause(f"the link to the manager at {self._where} was lost")

    def _keep_alive(self) -> None:
        self._ping_call = self._clock.callLater(self._lease / 3, self._keep_alive)
        self._pings += 1
        if self._pings > 1 and self._link is not None:
            self._link.send(Ping(self._pings))

    def _expect(self, seconds: float) -> None:
        """Something must come within ``seconds``, or the manager is taken for dead."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.reset(seconds)
        else:
            self._deadline = self._clock.callLater(seconds, self._silent)

    def _silent(self) -> None:
        link = self._link
        if link is not None:
            log.info("nothing was heard of the manager for too long")
            self._closed(link, None)
            link.abort()


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
