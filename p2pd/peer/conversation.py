"""Two peers on one connection: hello, messages to whom they concern, liveness, an orderly end.

A conversation is symmetrical: :class:`~p2pd.peer.serving.Serving` answers the
other side, :class:`~p2pd.peer.fetching.Fetching` asks it. Both speak through
:meth:`Conversation.send`; neither touches the transport.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from p2pd.errors import P2PError, ProtocolError, RefusedError, UnreachableError
from p2pd.fetch.probing import Traffic
from p2pd.model import FileId, PeerId
from p2pd.net.addresses import canonical_host
from p2pd.net.dialling import made
from p2pd.net.fast import FileSlice
from p2pd.net.pace import PAUSE, Pace
from p2pd.net.tcpinfo import traffic
from p2pd.peer.fetching import Fetching
from p2pd.peer.host import Host, Other
from p2pd.peer.weighing import weight
from p2pd.pieces import MAX_PIECES, parse_mask
from p2pd.text import escape
from p2pd.wire import messages as m
from p2pd.wire.codec import Body, Decoder, UnknownVerb, encode
from p2pd.wire.fields import sentence

HELLO_DEADLINE = 10.0
"""Seconds from the connection to the other side's hello; absolute, not from the last byte."""
PING_AFTER = 15.0
SILENCE = 45.0
"""Seconds without a byte after which the other side counts as gone."""
DOUBT = 3.0
"""Seconds in which somebody answers who the manager says is gone."""
WRITE_STALL = 20.0
"""Seconds in which the other side takes nothing of what waits for it."""
LINGER = 2.0
"""Seconds that the other side has to read an `error` line and close."""
IDLE = 60.0
"""Seconds without anything open after which a conversation that we dialled is closed."""
MAX_UNSENT = 2 * 1024 * 1024
STRIKES = 16
"""Unknown verbs that a peer may send."""

log = Logger("p2pd.peer")


@implementer(IHalfCloseableProtocol, IPushProducer)
class Conversation(protocol.Protocol):
    """See the module. ``refusal``: say only this and close (the daemon is full)."""

    transport: Any

    def __init__(self, host: Host, *, dialled: bool, refusal: str | None = None) -> None:
        self._host = host
        self.dialled = dialled
        self._refusal = refusal
        self.refused = refusal is not None
        self._decoder = Decoder(m.PEER_TO_PEER)
        self.other: Other | None = None
        self.ready: Deferred[Conversation] = Deferred()
        """Fires when the other side said hello, or fails with why it did not."""
        self.fetching = Fetching(self)
        self.serving = host.make_serving(self)
        self._opened = self._heard = self._busy_at = host.now()
        self._sent = (0, self._opened)
        self._pinged = False
        self._doubted: float | None = None
        self._half_closed = self._closing = self._lingering = self.lost = False
        self._strikes = 0
        self._pace = Pace(host.now)
        self._held: set[str] = set()  # why reading is paused
        self._reason: P2PError | None = None
        self._handlers: dict[type[m.Message], Callable[[Any], None]] = {
            m.Error: self._on_error,
            m.Ping: lambda ping: self.send(m.Pong(ping.number)),
            m.Pong: lambda pong: None,
            m.Unknown: lambda unknown: None,
            m.LeftPeer: lambda left: self.close(),
            m.HavePiece: self._on_have_piece,
            **self.serving.handlers(),
            **self.fetching.handlers(),
        }

    # The transport's side

    def connectionMade(self) -> None:
        """Introduce ourselves, or say why not."""
        self.transport.tune()
        made(self)
        if self._refusal is not None:
            self.send(m.Error("refused", self._refusal))
            self._closing = True
            self._linger()
            return
        self.transport.registerProducer(self, True)
        self.send(self._host.hello())

    def dataReceived(self, data: bytes) -> None:
        """Bytes that are not read straight into a sink."""
        if self._closing:
            return
        self._heard = self._host.now()
        self._pinged = False
        self._decoder.receive(data)
        self._take_events()

    def _take_events(self) -> None:
        self._guarded(self._take_all)

    def _take_all(self) -> None:
        while not self._closing and not self._held:
            event = self._decoder.next_event()
            if event is None:
                break
            if isinstance(event, Body):
                self._count(len(event.data))
                self.fetching.body(event)
                continue
            if not self._pace.take(weight(event, self._decoder.line_length)):
                self.hold("pace")
                self._host.later(PAUSE, lambda: self.release("pace"))
            if isinstance(event, UnknownVerb):
                self._on_unknown(event)
            else:
                self._on_message(event)

    def _guarded(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except P2PError as error:
            self.fail(error)
        except Exception:
            # A fault of ours, but one conversation is all that it may cost.
            log.failure("conversation with {name}", name=self.name)
            self.fail(P2PError("internal error"))

    def _on_message(self, message: m.Message) -> None:
        if isinstance(message, m.Hello):
            self._on_hello(message)
            return
        if self.other is None and not isinstance(message, m.Error):
            raise ProtocolError(f"{message.VERB} before hello")
        self._handlers[type(message)](message)

    def _on_hello(self, hello: m.Hello) -> None:
        if self.other is not None:
            raise ProtocolError("hello: a second one")
        if hello.major != m.VERSION[0]:
            raise ProtocolError(f"hello: major: version {m.VERSION[0]} is spoken here, not {hello.major}")
        address = self.transport.getPeer()
        self.other = Other(PeerId(hello.id), hello.name, canonical_host(address.host), hello.port)
        self._host.introduced(self)
        if not self.ready.called:
            self.ready.callback(self)

    def _on_have_piece(self, told: m.HavePiece) -> None:
        file_id = FileId(told.file)
        if not (self.serving.hears(file_id) or self.fetching.hears(file_id)):
            return
        try:
            mask = parse_mask(told.pieces, MAX_PIECES)
            self.serving.has(file_id, mask)
            self.fetching.has(file_id, mask)
        except (ValueError, IndexError) as error:
            raise ProtocolError(f"have piece: pieces: {str(error)[:200]}") from None

    def traffic(self) -> Traffic | None:
        """What came on it, all in all; None where the system does not say."""
        return traffic(self.transport.socket) if not self.lost else None

    def asks_for(self, name: str) -> bool:
        """Part of :class:`~p2pd.peer.fetching.Link`."""
        return self.serving.answers.asks(name)

    def said(self, file_id: FileId) -> int:
        """Part of :class:`~p2pd.peer.answering.Link`."""
        return self.fetching.said(file_id)

    def concerned(self, file_id: FileId) -> bool:
        """Part of :class:`~p2pd.peer.stock.Company`."""
        return not self.ended and (self.serving.concerned(file_id) or self.fetching.follows(file_id))

    def withdrawn(self, file_id: FileId) -> None:
        """Part of :class:`~p2pd.peer.stock.Company`."""
        self.serving.withdrawn(file_id)

    def _on_unknown(self, event: UnknownVerb) -> None:
        if self.other is None:
            raise ProtocolError("hello comes first")
        self._strikes += 1
        if self._strikes > STRIKES:
            raise ProtocolError("too many unknown verbs")
        self.send(m.Unknown(event.verb))

    def _on_error(self, error: m.Error) -> None:
        log.info("{name} says: {message}", name=self.name, message=escape(error.message))
        self._reason = RefusedError(f"{self.name} refused: {error.message}")
        self._closing = True
        self._lose()

    def body_target(self) -> memoryview | None:
        """Part of :class:`~p2pd.net.fast.FastProtocol`."""
        if self._decoder.body_left and not self._decoder.buffered and not self._closing:
            sink = self.fetching.current
            if sink is not None:
                limit = self._host.down
                most = self._decoder.body_left
                return sink.target()[: most if limit.rate is None else min(most, limit.step)]
        return None

    def body_received(self, count: int) -> None:
        """Part of :class:`~p2pd.net.fast.FastProtocol`."""
        self._heard = self._host.now()
        self._decoder.body_read(count)
        self._count(count)
        self._guarded(self.fetching.body_received, count)

    def _count(self, count: int) -> None:
        """So many bytes of a body came, whichever way."""
        limit = self._host.down
        if limit.rate is not None:
            limit.spend(count)
            if limit.exceeded():
                self.hold("limit")
                limit.when_free(self._go_on_reading)

    def _go_on_reading(self) -> None:
        self.release("limit")

    @property
    def body_left(self) -> int:
        """Part of :class:`~p2pd.net.fast.FastProtocol`."""
        return 0 if self._decoder.buffered else self._decoder.body_left

    def next_slice(self) -> tuple[bytes, FileSlice] | None:
        """Part of :class:`~p2pd.net.fast.FastProtocol`."""
        if self._closing:
            return None
        return self.serving.next_slice()

    def slice_failed(self, reason: str) -> None:
        """Part of :class:`~p2pd.net.fast.FastProtocol`."""
        self.serving.slice_failed(reason)

    # Back-pressure: who does not take our answers is not asked for more requests

    def pauseProducing(self) -> None:
        """The other side does not read: stop reading its requests."""
        self.hold("unsent")

    def resumeProducing(self) -> None:
        """It reads again."""
        self.release("unsent")

    def stopProducing(self) -> None:
        """The transport is gone."""

    @property
    def unread(self) -> bool:
        """Part of :class:`~p2pd.peer.fetching.Link`: our limit, or our disk."""
        return not self._held.isdisjoint(("limit", "disk"))

    def hold(self, why: str) -> None:
        """Read nothing more until released."""
        if not self._held and not self.lost and not self._half_closed:
            self.transport.pauseProducing()
        self._held.add(why)

    def release(self, why: str) -> None:
        """Undo one :meth:`hold`."""
        if why not in self._held:
            return
        self._held.discard(why)
        if not self._held and not self.lost:
            self._heard = self._host.now()  # it may have spoken: nobody listened
            self._take_events()
            if not self._held and not self._half_closed and not self._closing:
                self.transport.resumeProducing()

    # Both halves' side

    @property
    def name(self) -> str:
        """The other's name, safe to print."""
        if self.other is not None:
            return escape(self.other.name)
        address = self.transport.getPeer() if self.transport is not None else None
        return f"{address.host}:{address.port}" if address is not None else "a peer"

    def send(self, message: m.Message, body: bytes = b"") -> None:
        """Send a message and its body; nothing once it closes: `error` and `left_peer` are the last."""
        if self.lost or self._closing:
            return
        self.transport.write(encode(message) + body)
        if self._half_closed:
            self.transport.slices_ready()  # when it is out, it may have been the last
        if self.transport.unsent > MAX_UNSENT + len(body):
            self.abort()

    def slices_ready(self) -> None:
        """The serving side has data to send."""
        if not self.lost:
            self.transport.slices_ready()

    def fail(self, error: P2PError) -> None:
        """The other side broke the rules: say so, then close."""
        if self._closing:
            return
        log.info("{name} is dropped: {message}", name=self.name, message=escape(error.message))
        self._reason = error
        self.fetching.misbehaved()
        self.send(m.Error(error.code, sentence(error.message)))
        self._closing = True
        self.transport.unregisterProducer()
        self._linger()

    def close(self, farewell: bool = False) -> None:
        """End in order: what is in the buffer is still sent."""
        if self._closing or self.lost:
            return
        if farewell:
            self.send(m.LeftPeer())
        self._closing = True
        self._lose()

    def abort(self) -> None:
        """End at once."""
        self._closing = True
        if not self.lost:
            self.transport.abortConnection()

    def _linger(self) -> None:
        """Close, but let the other side read why: what it still sends must not make that a reset."""
        self._busy_at = self._host.now()
        self.serving.stop_granting()
        self._lingering = True
        self.transport.loseWriteConnection()
        if self._half_closed:
            self.transport.loseConnection()
        elif self._held:
            self.transport.resumeProducing()

    def _lose(self) -> None:
        if not self.lost:
            self._busy_at = self._host.now()
            self.serving.stop_granting()
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def doubt(self) -> None:
        """The other side is said to be gone: ask it, and end where it does not answer soon."""
        if self._doubted is None and not self.ended:
            self._doubted = self._host.now()
            self.send(m.Ping(0))

    @property
    def ended(self) -> bool:
        """True where nothing can be asked on it any more."""
        return self.lost or self._closing or self._half_closed

    @property
    def busy(self) -> bool:
        """True while something is open on it in either direction."""
        return self.serving.busy or self.fetching.busy

    @property
    def carrying(self) -> bool:
        """True while a file is wanted on it in either direction."""
        return bool(self.serving.uploads) or self.fetching.taking

    def tick(self, now: float) -> None:
        """Look at deadlines; called about once a second."""
        if self.lost:
            return
        self.transport.look_now()
        if self.other is None and now - self._opened > HELLO_DEADLINE:
            self.fail(ProtocolError(f"no hello within {HELLO_DEADLINE:.0f} s"))
        if self.transport.blocked:
            if self.transport.sent_bytes != self._sent[0]:
                self._sent = (self.transport.sent_bytes, now)
            elif now - self._sent[1] > WRITE_STALL:
                log.info("{name} takes nothing any more", name=self.name)
                self.abort()
                return
        else:
            self._sent = (self.transport.sent_bytes, now)
        if self._closing:
            if now - self._busy_at > (LINGER if self._lingering else WRITE_STALL):
                self.abort()
            return
        if self._half_closed:
            self._end_if_answered()
            return
        if self._doubted is not None:
            if self._heard > self._doubted:
                self._doubted = None
            elif now - self._doubted > DOUBT and not self._held:
                log.info("{name} is gone", name=self.name)
                self.abort()
                return
        silent = now - self._heard
        if silent > SILENCE and not self._held:
            log.info("{name} has said nothing for {seconds:.0f} s", name=self.name, seconds=silent)
            self.abort()
        elif silent > PING_AFTER and not self._pinged and self.other is not None:
            self._pinged = True
            self.send(m.Ping(0))
        if self.busy or self.transport.blocked:
            self._busy_at = now
        elif self.dialled and now - self._busy_at > IDLE:
            self.close()
        self.serving.tick(now)

    # The end

    def readConnectionLost(self) -> None:
        """The other side asks nothing more: finish the answers, then close."""
        self._half_closed = True
        if self._lingering:
            self.transport.loseConnection()
        self.fetching.end()
        self.serving.answers.forget_standing()
        self._end_if_answered()

    def writeConnectionLost(self) -> None:
        """We half-closed: never done here."""

    def answered(self) -> None:
        """The serving side finished something."""
        if self._half_closed:
            self._end_if_answered()

    def _end_if_answered(self) -> None:
        if not self._closing and not self.serving.answering and not self.transport.blocked:
            self._closing = True
            self._lose()

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        """Everything that was open ends."""
        self.lost = True
        # A fault in one of them must leave none of the others open.
        try:
            self.fetching.end()
        finally:
            try:
                self.serving.end()
            finally:
                self._host.closed(self)
                self._never_ready(reason)

    def _never_ready(self, reason: Failure) -> None:
        if not self.ready.called:
            cause = self._reason
            if cause is None:
                text = "closed" if reason.check(ConnectionDone) else reason.getErrorMessage()
                cause = UnreachableError(f"{self.name} closed the connection before hello: {text}")
            self.ready.errback(Failure(cause))
