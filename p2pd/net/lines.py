"""A connection that speaks in messages without bodies, with its limits: both ends of the manager protocol.

What every such connection keeps: one bad line costs an ``error`` line and the
connection; unknown verbs are answered and counted; who does not read is not
read either, so that a flood cannot make answers pile up here; lines are taken
no faster than at a :class:`~p2pd.net.pace.Pace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from p2pd.errors import P2PError, ProtocolError
from p2pd.net.pace import PAUSE, Pace
from p2pd.wire.codec import Body, Decoder, UnknownVerb, encode
from p2pd.wire.fields import sentence
from p2pd.wire.messages import Error, Message, Ping, Pong, Unknown

MAX_STRIKES = 16
"""Unknown verbs (and `unknown` answers) on one connection; a newer minor version sends a few."""
MAX_WAITING = 1024 * 1024
"""Bytes that may wait for the other side to read; with more, it is not read either until all are gone."""
LINGER = 2.0
"""Seconds that the other side has to read an ``error`` line and close."""


class _Transport(ITCPTransport, IConsumer, IPushProducer):
    """What Twisted's TCP transports provide."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class MessageProtocol(Protocol):
    """Base of both ends; what subclasses override stands first.

    :meth:`closed` comes exactly once after :meth:`opened`, as soon as nothing
    more will be received. ``blocked``: the other side lets 64 KiB and more
    wait; ``stuck``: more than :data:`MAX_WAITING`.
    """

    def __init__(self, clock: IReactorTime, table: Mapping[str, type[Message]]) -> None:
        self._clock = clock
        self._decoder = Decoder(table)
        self._strikes = 0
        self._closing = False
        self._told = False
        self._deadline: IDelayedCall | None = None
        self._waiting = 0
        self._pace = Pace(clock.seconds)
        self._pace_call: IDelayedCall | None = None
        self._held: set[str] = set()  # why nothing is read
        self.blocked = False
        self._lost: list[Deferred[None]] = []

    # For subclasses

    def opened(self) -> None:
        """The connection is there."""

    def bytes_received(self) -> None:
        """Something came, whatever it is."""

    def message_received(self, message: Message) -> None:
        """A well-formed message, no `ping` or `unknown`. A P2PError raised here fails the connection."""

    def input_ended(self) -> None:
        """The other side sends nothing more, but may still read. The default closes."""
        self.close()

    def unblocked(self) -> None:
        """The other side reads again."""

    def closed(self, reason: P2PError | None) -> None:
        """The conversation is over: by ``reason``, where this side ended it by :meth:`fail`."""

    # What subclasses and owners do

    @property
    def open(self) -> bool:
        """True while messages can be sent."""
        return self.connected == 1 and not self._closing

    @property
    def stuck(self) -> bool:
        """True while too much waits, and nothing is read."""
        return self._waiting > MAX_WAITING

    def send(self, *messages: Message) -> None:
        """Send in one write; nothing once it closes."""
        self.send_lines(b"".join(map(encode, messages)))

    def send_lines(self, lines: bytes) -> None:
        """Send lines that were encoded for many; nothing once it closes."""
        if not self.open or not lines:
            return
        self._tcp.write(lines)
        if self.blocked:
            was_stuck = self.stuck
            self._waiting += len(lines)
            if self.stuck and not was_stuck:
                self.hold("stuck")

    def fail(self, error: P2PError) -> None:
        """Say why in an ``error`` line, which arrives even if the other side is still sending; then close."""
        if not self.open:
            return
        self._tcp.write(encode(Error(error.code, sentence(error.message))))
        self._begin_closing(error)

    def close(self) -> None:
        """Close after what was sent has gone out."""
        if self.open:
            self._begin_closing(None)

    def hold(self, why: str) -> None:
        """Read nothing more until released."""
        if not self._held and self.open:
            self._tcp.pauseProducing()
        self._held.add(why)

    def release(self, why: str) -> None:
        """Undo one :meth:`hold`; what was read before is taken first."""
        self._held.discard(why)
        if not self._held and self.open:
            self._take_events()
            if not self._held and self.open:
                self._tcp.resumeProducing()

    def when_lost(self) -> Deferred[None]:
        """Fires when the connection is gone; only while it is there."""
        waiting: Deferred[None] = Deferred(self._lost.remove)
        self._lost.append(waiting)
        return waiting

    def abort(self) -> None:
        """Close at once; what was sent and not yet taken is lost."""
        self._closing = True
        if self.connected:
            self._tcp.abortConnection()

    # Twisted calls these

    def connectionMade(self) -> None:
        self._tcp.registerProducer(self, True)
        self._tcp.setTcpKeepAlive(True)
        self._tcp.setTcpNoDelay(True)
        self.opened()

    def dataReceived(self, data: bytes) -> None:
        if not self.open:
            return  # read and dropped, because closing with bytes unread would reset the error line away
        self.bytes_received()
        self._decoder.receive(data)
        self._take_events()

    def readConnectionLost(self) -> None:
        if self._closing:
            self._tcp.loseConnection()
        else:
            self._arm()
            self.input_ended()

    def writeConnectionLost(self) -> None:
        """The other side knows that nothing more comes."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        for call in (self._deadline, self._pace_call):
            if call is not None and call.active():
                call.cancel()
        self._tell(None if reason.check(ConnectionDone) else P2PError(reason.getErrorMessage()))
        waiting, self._lost = self._lost, []
        for each in waiting:
            each.callback(None)

    def pauseProducing(self) -> None:
        self.blocked = True

    def resumeProducing(self) -> None:
        was_stuck, self._waiting, self.blocked = self.stuck, 0, False
        if was_stuck:
            self.release("stuck")
        if self.open:
            self.unblocked()

    def stopProducing(self) -> None:
        """The connection is lost; :meth:`connectionLost` follows."""

    # Inside

    @property
    def _tcp(self) -> _Transport:
        return cast(_Transport, self.transport)

    def _take_events(self) -> None:
        try:
            while self.open and not self._held and (event := self._decoder.next_event()) is not None:
                if not self._pace.take(self._decoder.line_length):
                    self.hold("pace")
                    self._pace_call = self._clock.callLater(PAUSE, self.release, "pace")
                self._take(event)
        except P2PError as error:
            self.fail(error)

    def _take(self, event: Message | Body | UnknownVerb) -> None:
        if isinstance(event, UnknownVerb):
            self._strike()
            self.send(Unknown(event.verb))
        elif isinstance(event, Unknown):
            self._strike()
        elif isinstance(event, Ping):
            self.send(Pong(event.number))
        elif isinstance(event, Message):
            self.message_received(event)

    def _strike(self) -> None:
        self._strikes += 1
        if self._strikes >= MAX_STRIKES:
            raise ProtocolError(f"{MAX_STRIKES} unknown verbs")

    def _begin_closing(self, reason: P2PError | None) -> None:
        self._closing = True
        if self._held:
            self._tcp.resumeProducing()
        self._tcp.unregisterProducer()
        self._tcp.loseWriteConnection()
        self._arm()
        self._tell(reason)

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self._clock.callLater(LINGER, self.abort)

    def _tell(self, reason: P2PError | None) -> None:
        if not self._told:
            self._told = True
            self.closed(reason)
