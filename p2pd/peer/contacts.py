"""Whom this daemon talks to: conversations by peer, dialling, and the limit of those it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet import protocol
from twisted.internet.defer import Deferred, DeferredSemaphore, ensureDeferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure

from p2pd.errors import P2PError, RefusedError, UnreachableError
from p2pd.fetch.neighbours import calls_first
from p2pd.fetch.picker import SourceKey
from p2pd.fetch.probing import Traffic
from p2pd.model import PeerId, PeerInfo, is_peer_id
from p2pd.net.addresses import is_own
from p2pd.net.dialling import dial
from p2pd.net.door import Door, Visit
from p2pd.net.limits import Limit
from p2pd.net.reasons import why
from p2pd.peer.conversation import Conversation
from p2pd.peer.serving import Serving
from p2pd.wire import messages as m

DIALS = 8
"""Connections being made at once: meanwhile some of the others call themselves;"""
SLOW_DIAL = 0.25
"""but one that takes longer than so many seconds holds up no other, nobody may be there,"""
MOST_DIALS = 64
"""up to so many in all: each has a descriptor."""
HANDSHAKE = 5.0
"""Seconds for hello after the connection is there."""

log = Logger("p2pd.peer")


class Contacts(protocol.Factory):
    """All conversations, and the factory of those that come in.

    ``hello`` says who we are, ``serve`` makes the serving half, ``listed`` gives the
    manager's list, ``changed`` is told when there is somebody new to ask, ``down`` limits what
    comes in.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        *,
        maximum: int,
        hello: Callable[[], m.Hello],
        serve: Callable[[Conversation], Serving],
        listed: Callable[[], Mapping[PeerId, PeerInfo]],
        changed: Callable[[], None],
        down: Limit,
    ) -> None:
        self._reactor = reactor
        self.down = down
        self._hello = hello
        self._serve = serve
        self._listed = listed
        self._changed = changed
        self._all: set[Conversation] = set()
        self._here: set[PeerId] = set()  # who was on the list
        self.door = Door(maximum)
        self.visitors = 0
        """How many peers on other machines have connected to this one."""
        self._visits: dict[Conversation, Visit] = {}
        self._by_peer: dict[PeerId, list[Conversation]] = {}
        self._dialling: dict[PeerId, list[Deferred[Conversation]]] = {}
        self._fresh_dials = DeferredSemaphore(DIALS)
        self._dials = DeferredSemaphore(MOST_DIALS)
        self._emptied: list[Deferred[None]] = []
        self._stopped = False

    # The factory of the listening port

    def buildProtocol(self, addr: IAddress | None) -> Conversation | None:
        """A conversation that somebody opened; beyond the maximum it hears why not, and ends."""
        if len(self._all) > 2 * self.door.limit + MOST_DIALS:
            return None  # not even a sentence for a flood
        host = getattr(addr, "host", "")
        why = "leaving" if self._stopped else self.door.refusal(host)
        refusal = None if why is None else f"this peer is {why}"
        conversation = Conversation(self, dialled=False, refusal=refusal)
        if why is None:
            self._visits[conversation] = self.door.enter(host)
        conversation.factory = self
        conversation.ready.addErrback(lambda _: None)
        self._all.add(conversation)
        return conversation

    # The host of the conversations

    def now(self) -> float:
        """Monotonic seconds."""
        return float(self._reactor.seconds())

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        """Call ``work`` after so many seconds."""
        self._reactor.callLater(seconds, work)

    def hello(self) -> m.Hello:
        """Who we are."""
        return self._hello()

    def make_serving(self, conversation: Conversation) -> Serving:
        """The serving half of a new conversation."""
        return self._serve(conversation)

    def introduced(self, conversation: Conversation) -> None:
        """The other side said hello. RefusedError where it is ourselves."""
        assert conversation.other is not None
        other = conversation.other
        if other.id == self._hello().id:
            raise RefusedError("this is the same peer")
        if conversation in self._visits:
            self._visits[conversation].introduced()
            if not is_own(other.host):
                self.visitors += 1
        self._by_peer.setdefault(other.id, []).append(conversation)
        if not conversation.dialled:
            self._join(other.id)
        self._changed()

    def closed(self, conversation: Conversation) -> None:
        """A conversation is over."""
        self._all.discard(conversation)
        visit = self._visits.pop(conversation, None)
        if visit is not None:
            visit.left()
        if conversation.other is not None:
            known = self._by_peer.get(conversation.other.id, [])
            if conversation in known:
                known.remove(conversation)
            if not known:
                self._by_peer.pop(conversation.other.id, None)
        if not self._all:
            waiting, self._emptied = self._emptied, []
            for each in waiting:
                each.callback(None)

    # Reaching others

    def active(self) -> list[PeerInfo]:
        """Everybody who can be asked: the manager's list, and who talks to us."""
        found = dict(self._listed())
        for peer, conversations in self._by_peer.items():
            if peer not in found:
                other = conversations[0].other
                assert other is not None
                found[peer] = PeerInfo(other.id, other.name, other.host, other.port)
        return list(found.values())

    def about(self) -> int:
        """How many others there are: as many as are listed or talk to us, whichever is more."""
        return max(len(self._listed()), len(self._by_peer))

    def with_peer(self, peer: PeerId) -> Conversation | None:
        """An open conversation with that peer."""
        info = self._listed().get(peer)
        for conversation in self._by_peer.get(peer, ()):
            if not conversation.ended and (conversation.dialled or _is_at(conversation, info)):
                return conversation
        return None

    def reach_address(self, host: str, port: int) -> Deferred[Conversation]:
        """As :meth:`reach`, whoever that is. Fails with a P2PError, also where it is ourselves."""
        return self.reach(PeerInfo(PeerId(f"{host} {port}"), f"{host}:{port}", host, port))

    def reach(self, peer: PeerInfo) -> Deferred[Conversation]:
        """A conversation with that peer, dialled if need be. Fails with a P2PError."""
        known = self.with_peer(peer.id)
        if known is not None:
            waited: Deferred[Conversation] = Deferred()
            waited.callback(known)
            return waited
        answer: Deferred[Conversation] = Deferred()
        waiting = self._dialling.setdefault(peer.id, [])
        waiting.append(answer)
        if len(waiting) == 1:
            ensureDeferred(self._dial(peer)).addBoth(self._dialled, peer.id)
        return answer

    def _dialled(self, result: Conversation | Failure, peer: PeerId) -> None:
        for each in self._dialling.pop(peer):
            each.callback(result)  # a Failure is an errback

    def calls_first(self, peer: PeerId) -> bool:
        """Whether, of us and that peer, it is we who dial where both want to."""
        return calls_first(self._hello().id, peer)

    async def _turn(self) -> Callable[[], None]:
        """Waits while many are being dialled; gives what is to be called when this one is through."""
        await self._dials.acquire()
        await self._fresh_dials.acquire()
        slow = self._reactor.callLater(SLOW_DIAL, self._fresh_dials.release)

        def free() -> None:
            self._dials.release()
            if slow.active():
                slow.cancel()
                self._fresh_dials.release()

        def through() -> None:
            # Not at once: the next may be through as soon as it is let in, and so may a thousand.
            self._reactor.callLater(0, free)

        return through

    async def _dial(self, peer: PeerInfo) -> Conversation:
        through = await self._turn()
        try:
            known = self.with_peer(peer.id)
            if known is not None:
                return known  # it called meanwhile
            if self._stopped:
                raise UnreachableError("this peer is leaving")
            conversation = Conversation(self, dialled=True)
            try:
                await dial(self._reactor, peer.host, peer.port, conversation)
            except (ConnectError, OSError, ValueError) as error:
                conversation.ready.addErrback(lambda _: None)
                raise UnreachableError(f"{peer.name} cannot be reached: {why(error)}") from None
            self._all.add(conversation)
            conversation.ready.addTimeout(HANDSHAKE, self._reactor)
            try:
                await conversation.ready
            except P2PError:
                raise
            except Exception as error:
                conversation.abort()
                raise UnreachableError(f"{peer.name} does not answer: {type(error).__name__}") from None
            assert conversation.other is not None
            if is_peer_id(peer.id) and conversation.other.id != peer.id:
                conversation.close()
                raise UnreachableError(f"{peer.name} is another peer now")
            self._join(conversation.other.id)
            other = self.with_peer(conversation.other.id) if conversation.ended else None
            return other or conversation
        finally:
            through()

    def _join(self, peer: PeerId) -> None:
        """Both dialled at once: the smaller id closes its one, and asks on the other's."""
        known = self._by_peer.get(peer, [])
        if len(known) < 2 or not self._hello().id < peer:
            return
        theirs = [each.other for each in known if not each.dialled and not each.ended]
        for conversation in list(known):
            # At the same place: an id alone can be claimed by anybody.
            if conversation.dialled and not conversation.carrying and conversation.other in theirs:
                conversation.close()

    # Upkeep

    def conversations(self) -> Iterable[Conversation]:
        """All of them, introduced or not."""
        return list(self._all)

    def traffic(self) -> dict[SourceKey, Traffic]:
        """What came so far from each who sends us a file; empty where the system does not count it."""
        counted = ((id(each.fetching), each.traffic()) for each in self._all if each.fetching.taking)
        return {source: traffic for source, traffic in counted if traffic is not None}

    def tick(self, now: float) -> None:
        """Look at everybody's deadlines; called about once a second."""
        for conversation in list(self._all):
            conversation.tick(now)
        here = set(self._listed())
        for peer in self._here - here:
            for conversation in self._by_peer.get(peer, ()):
                conversation.doubt()
        self._here = here
        for peer in list(self._by_peer):
            self._join(peer)

    async def stop(self, within: float) -> None:
        """Say farewell to everybody; who has not gone ``within`` seconds is cut off."""
        self._stopped = True
        for conversation in list(self._all):
            conversation.close(farewell=conversation.other is not None)
        if not self._all:
            return
        empty: Deferred[None] = Deferred()
        self._emptied.append(empty)

        def cut() -> None:
            for conversation in list(self._all):
                conversation.abort()

        call = self._reactor.callLater(within, cut)
        await empty
        if call.active():
            call.cancel()


def _is_at(conversation: Conversation, info: PeerInfo | None) -> bool:
    """Whether who dialled us is where the list has that peer: an id alone can be claimed by anybody."""
    other = conversation.other
    return info is None or (other is not None and (other.host, other.port) == (info.host, info.port))
