"""A conversation without a network: memory for a transport, a clock that is told, and nothing to serve."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from p2pd.errors import NotFoundError
from p2pd.fetch.granting import Granting
from p2pd.model import PeerId, PeerInfo
from p2pd.net.limits import Limit
from p2pd.peer.activity import Activity
from p2pd.peer.budgets import Budgets
from p2pd.peer.conversation import Conversation
from p2pd.peer.serving import Counter, Serving
from p2pd.peer.stock import Stock
from p2pd.wire import messages as m
from p2pd.wire.codec import Body, Decoder, UnknownVerb, encode

OTHER = "b" * 32


class Memory:
    """The transport: what is written is kept, and always taken unless ``blocked``."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.blocked = False
        self.unsent = 0
        self.sent_bytes = 0
        self.reading = True
        self.aborted = self.closed = self.half_closed = False

    def tune(self) -> None:
        pass

    def slices_ready(self) -> None:
        pass

    def look_now(self) -> None:
        pass

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "10.0.0.5", 40000)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.half_closed, "written after the end"
        self.written += data
        if not self.blocked:
            self.sent_bytes += len(data)

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def loseConnection(self) -> None:
        self.closed = True

    def abortConnection(self) -> None:
        self.aborted = True


class EmptyIndex:
    """Of a share without files."""

    def subscribe(self, callback: object) -> None:
        pass

    def unsubscribe(self, callback: object) -> None:
        pass

    async def find(self, name: str) -> None:
        return None

    def offered(self, file_id: str) -> None:
        return None


class _IndexOf:
    """The index that a quiet peer has now: tests replace it."""

    def __init__(self, quiet: Quiet) -> None:
        self._quiet = quiet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._quiet.index, name)


class Quiet:
    """A conversation that somebody opened, and what is around it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.index: Any = EmptyIndex()
        self.activity = Activity(False)
        self.budgets = Budgets()
        self.granting = Granting(Counter())
        self.roster: dict[PeerId, PeerInfo] = {}
        self.up, self.down = Limit(self.clock), Limit(self.clock)
        self.stock = Stock(
            cast(Any, _IndexOf(self)), self.granting, now=self.now, later=self.later,
            company=lambda: [self.conversation], about=lambda: len(self.roster),
        )  # fmt: skip
        self.wire = Memory()
        self.over = False
        self._decoder = Decoder(m.PEER_TO_PEER)
        host: Any = self
        self.conversation = Conversation(host, dialled=False)
        self.conversation.ready.addErrback(lambda _: None)
        connected: Any = self.conversation
        connected.factory = object()
        connected.makeConnection(self.wire)

    # What a conversation needs of its daemon

    def listed(self) -> dict[PeerId, PeerInfo]:
        return self.roster

    def now(self) -> float:
        return float(self.clock.seconds())

    def later(self, seconds: float, work: Any = None) -> Any:
        if work is None:
            waited: Deferred[None] = Deferred()
            self.clock.callLater(seconds, waited.callback, None)
            return waited
        return self.clock.callLater(seconds, work)

    def hello(self) -> m.Hello:
        return m.Hello(*m.VERSION, "a" * 32, "me", 7001)

    def introduced(self, conversation: Conversation) -> None:
        pass

    def closed(self, conversation: Conversation) -> None:
        self.over = True

    def make_serving(self, conversation: Conversation) -> Serving:
        shop: Any = self
        return Serving(conversation, shop)

    def in_thread(self, work: Any) -> Any:
        raise NotFoundError("there are no threads here")

    def upload_ended(self, upload: object, name: str, done: bool) -> None:
        pass

    # What a test does

    def introduce(self) -> Quiet:
        self.say(encode(m.Hello(*m.VERSION, OTHER, "other", 7002)))
        return self

    def say(self, data: bytes) -> None:
        """It comes in, if it is read."""
        self.conversation.dataReceived(data)

    def heard(self) -> list[m.Message | Body | UnknownVerb]:
        """What was answered since the last time."""
        self._decoder.receive(bytes(self.wire.written))
        self.wire.written.clear()
        events = []
        while (event := self._decoder.next_event()) is not None:
            events.append(event)
        return events

    def tick(self, seconds: float) -> None:
        """Time passes, in ticks of a second."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.conversation.tick(self.now())

    def end(self) -> None:
        if not self.over:
            self.conversation.connectionLost(Failure(ConnectionDone()))
