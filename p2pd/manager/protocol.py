"""The manager's end of a peer's connection (docs/wire-manager.md)."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from p2pd.errors import P2PError, ProtocolError, RefusedError, UsageError
from p2pd.manager.hub import Hub
from p2pd.manager.registry import Announcement
from p2pd.model import PeerId
from p2pd.net.addresses import canonical_host
from p2pd.net.door import Door, Visit
from p2pd.net.lines import MessageProtocol
from p2pd.wire.fields import sentence
from p2pd.wire.messages import (
    PEER_TO_MANAGER,
    VERSION,
    Error,
    LeftPeer,
    ListPeers,
    Message,
    NewPeer,
    Pong,
    Welcome,
)

log = Logger()

ANNOUNCE_WITHIN = 10.0
"""Seconds from connecting to a whole `new_peer`, however it drips in."""
MAX_REFUSALS = 64
"""Connections over the limit that are told so at one time; further ones are closed without a word."""


class ManagerProtocol(MessageProtocol):
    """One peer. Made by :class:`ManagerFactory`; tells its hub and its factory of everything, once."""

    def __init__(self, factory: ManagerFactory, visit: Visit) -> None:
        super().__init__(factory.clock, PEER_TO_MANAGER)
        self._office = factory
        self._visit = visit
        self._hub: Hub = factory.hub
        self._peer: PeerId | None = None
        self._announce_call: IDelayedCall | None = None
        self._list_due = False
        self._half_closed = False

    def opened(self) -> None:
        """Counts, and waits for `new_peer`."""
        self._office.protocols.add(self)
        if not self._office.ready:
            self.hold("not ready")
        self._announce_call = self._clock.callLater(
            ANNOUNCE_WITHIN, self.fail, ProtocolError(f"no new_peer within {ANNOUNCE_WITHIN:g} s")
        )

    def begin(self) -> None:
        """Read what waits since the connection was made."""
        self.release("not ready")

    def bytes_received(self) -> None:
        """Anything at all keeps the lease."""
        if self._peer is not None:
            self._hub.heard(self, self._peer)

    def message_received(self, message: Message) -> None:
        """One verb of `PEER_TO_MANAGER`."""
        if isinstance(message, NewPeer):
            self._announced(message)
        elif isinstance(message, LeftPeer):
            self.close()
        elif isinstance(message, Error):
            log.info("a peer complains: {message}", message=ascii(message.message))
            self.close()
        elif self._peer is None:
            raise ProtocolError("new_peer comes first")
        elif isinstance(message, ListPeers):
            self._list_due = True
            self._hub.want_list(self, self._peer)
        elif not isinstance(message, Pong):
            raise ProtocolError(f"{message.VERB} is not for a manager")

    def list_sent(self) -> None:
        """The hub has sent the whole list."""
        self._list_due = False
        if self._half_closed:
            self.close()

    def unblocked(self) -> None:
        """Tells the hub."""
        if self._peer is not None:
            self._hub.unblocked(self, self._peer)

    def input_ended(self) -> None:
        """What it asked for is still sent."""
        self._half_closed = True
        if not self._list_due:
            self.close()

    def closed(self, reason: P2PError | None) -> None:
        """The peer is off the list at once; the connection may linger for its `error` line."""
        self._stop_waiting()
        if reason is not None:
            log.info(
                "closed a connection from {host}: {reason}", host=self._observed, reason=ascii(reason.message)
            )
        if self._peer is not None:
            self._hub.leave(self, self._peer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._office.protocols.discard(self)
        self._visit.left()
        super().connectionLost(reason)

    @property
    def _observed(self) -> str:
        try:
            return canonical_host(self._tcp.getPeer().host)
        except (UsageError, AttributeError):
            return "an unknown address"

    def _announced(self, said: NewPeer) -> None:
        if self._peer is not None:
            raise ProtocolError("new_peer came already")
        if said.major != VERSION[0]:
            raise RefusedError(f"version {said.major} of the protocol is not spoken here, but {VERSION[0]}")
        peer = PeerId(said.id)
        announcement = Announcement(peer, said.name, said.port, said.listen, said.advertise, said.cookie)
        joined = self._hub.join(self, announcement, canonical_host(self._tcp.getPeer().host))
        self._peer = peer
        self._visit.introduced()
        self._list_due = True
        self._stop_waiting()
        lease = int(self._hub.registry.lease)
        self.send(Welcome(joined.cookie, lease, joined.host, sentence(joined.problem)))

    def _stop_waiting(self) -> None:
        if self._announce_call is not None and self._announce_call.active():
            self._announce_call.cancel()


class _Refusal(MessageProtocol):
    """A connection that is one too many."""

    def __init__(self, factory: ManagerFactory, why: str) -> None:
        super().__init__(factory.clock, PEER_TO_MANAGER)
        self._office = factory
        self._why = why

    def opened(self) -> None:
        """Says so, and closes."""
        self._office.refusals += 1
        self.fail(RefusedError(self._why))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._office.refusals -= 1
        super().connectionLost(reason)


class ManagerFactory(Factory):
    """Takes ``limit`` connections, by the rules of :class:`~p2pd.net.door.Door`; the next ones get an
    `error` line and are closed.
    """  # fmt: skip

    noisy = False

    def __init__(self, clock: IReactorTime, hub: Hub, limit: int) -> None:
        self.clock = clock
        self.hub = hub
        self.door = Door(limit)
        self.protocols: set[ManagerProtocol] = set()
        self.refusals = 0
        self.ready = False

    def begin(self) -> None:
        """Answer from now on, also those connected already: the cookies of earlier runs are known."""
        self.ready = True
        for protocol in list(self.protocols):
            protocol.begin()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """None, which closes at once, where even the refusals are too many."""
        host = getattr(addr, "host", "")
        why = self.door.refusal(host, listening=self.ready)
        if why is None:
            return ManagerProtocol(self, self.door.enter(host))
        if self.refusals < MAX_REFUSALS:
            return _Refusal(self, f"the manager is {why}")
        return None
