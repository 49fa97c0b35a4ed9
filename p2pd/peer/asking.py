"""One `req` to everybody who is here, for as long as it stands: dialled, asked, asked again after a loss."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from p2pd.errors import RefusedError
from p2pd.fetch.neighbours import Neighbours
from p2pd.model import Offer, PeerId, PeerInfo
from p2pd.peer.contacts import Contacts
from p2pd.peer.conversation import Conversation
from p2pd.peer.fetching import Fetching
from p2pd.peer.offers import Offers
from p2pd.pieces import Bitfield

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
"""Seconds between tries to reach a peer: growing and jittered, as for the manager's."""
FIRST_GONE = 1.0
LONGEST_GONE = 10.0
"""Seconds until a peer that took its offer back is asked anew, if it does not offer by itself: what
kept it from serving (no descriptors, a bad sector) may be over."""


MAX_HINTED = 200
"""Peers that others say are on the file, and whom no manager has told of."""
HINT_TRIES = 3
SILENT = 2.0
"""Seconds after which others are asked instead of one that does not answer."""


@attrs.define(eq=False)
class _Asked:
    info: PeerInfo
    at: float
    dialling: Deferred[Conversation] | None = None
    source: Fetching | None = None
    number: int = 0
    piece_size: int = 0
    again_at: float = 0.0
    pause: float = FIRST_PAUSE
    anew_at: float | None = None
    anew_pause: float = FIRST_GONE
    answered: bool = False
    offered: bool = False
    """It has some of the file."""
    failures: int = 0


class Asking:
    """See the module. ``allowed`` says who is asked; ``offered`` is told each `have`.

    ``left`` is told when a conversation that was asked on is over, ``answered`` of every other answer;
    ``useless`` gives those who have had nothing new for long, ``found`` whether what is wanted is offered.
    """

    def __init__(
        self,
        name: str,
        contacts: Contacts,
        offers: Offers,
        *,
        allowed: Callable[[PeerInfo], bool],
        offered: Callable[[Fetching, Offer, Bitfield | None], None],
        left: Callable[[Fetching], None],
        answered: Callable[[], None],
        useless: Callable[[float], list[Fetching]],
        found: Callable[[], bool],
        neighbours: Neighbours,
    ) -> None:
        self._name = name
        self._contacts = contacts
        self._offers = offers
        self._allowed = allowed
        self._offered = offered
        self._left = left
        self._answered = answered
        self._asked: dict[PeerId, _Asked] = {}
        self._hinted: dict[PeerId, PeerInfo] = {}
        self._useless = useless
        self._found = found
        self._neighbours = neighbours
        self._quit: set[PeerId] = set()  # who was left for another: not asked because he asks
        self._stopped = False
        self.here = 0
        """How many could be asked: so many may be on the file."""

    def sweep(self, now: float) -> None:
        """Ask who is here and not yet asked; called often, and when somebody new is there."""
        if self._stopped:
            return
        active = {info.id: info for info in self._contacts.active()}
        here = {peer: info for peer, info in (self._hinted | active).items() if self._allowed(info)}
        self.here = len(here)
        for peer in [peer for peer in self._asked if peer not in here]:
            left = self._asked[peer]
            if left.source is None and left.dialling is None:
                # Gone from the list: whoever comes back is asked at once.
                del self._asked[peer]
                self._offers.unreachable(peer)
        on_it = [peer for peer, asked in self._asked.items() if self._on_it(asked)]
        pending = sum(1 for asked in self._asked.values() if not asked.answered and now - asked.at < SILENT)
        self._leave_one(here, on_it, now)
        found = self._found()
        if found:
            chosen = self._neighbours.choose(here, on_it, now, pending)
        else:
            chosen = self._neighbours.seek(here, self._asked, now, pending, may_come=bool(on_it))
        chosen += [peer for peer in here if self._comes(peer) and self._neighbours.welcome(on_it)]
        new = [peer for peer in chosen if peer not in self._asked]
        for peer in dict.fromkeys(new):
            self._quit.discard(peer)
            self._asked[peer] = _Asked(here[peer], now)
            self._offers.asked(peer, here[peer].name, now)
        # Of very many not all are asked, but they are before nobody is said to have it.
        strangers = any(peer not in self._asked for peer in here)
        self._offers.to_be_asked(strangers and bool(new or pending or not found), now)
        due = []
        for peer, info in here.items():
            asked = self._asked.get(peer)
            if asked is None:
                continue
            if (asked.info.host, asked.info.port) != (info.host, info.port):
                asked.info, asked.again_at, asked.pause = info, now, FIRST_PAUSE
            if asked.source is None and asked.dialling is None and now >= asked.again_at:
                due.append(asked)
            elif asked.source is not None and asked.anew_at is not None and now >= asked.anew_at:
                asked.anew_at = None
                self._ask(asked, asked.source)
        # Not all at once: of those who start together half call us. All have the same list, so by lot.
        random.shuffle(due)
        for asked in sorted(due, key=lambda each: not self._contacts.calls_first(each.info.id)):
            if self._stopped:
                return  # because of what the one before answered
            self._dial(asked)

    def _comes(self, peer: PeerId) -> bool:
        """True where it asks us for the file, and was not asked."""
        if peer in self._asked or peer in self._quit:
            return False
        conversation = self._contacts.with_peer(peer)
        return conversation is not None and conversation.asks_for(self._name)

    def _leave_one(self, here: dict[PeerId, PeerInfo], on_it: list[PeerId], now: float) -> None:
        found = {asked.info.id: source for source in self._useless(now) if (asked := self._of(source))}
        peer = self._neighbours.leave(here, found, now)
        if peer is not None:
            self._quit.add(peer)
            self.withdraw(found[peer])
            self._left(found[peer])
            if peer in on_it:
                on_it.remove(peer)

    def _on_it(self, asked: _Asked) -> bool:
        """True where it has some of the file, or fetches it too."""
        return asked.source is not None and (asked.offered or asked.source.link.asks_for(self._name))

    def hinted(self, source: Fetching, infos: Sequence[PeerInfo]) -> None:
        """Somebody says that these are on the file."""
        for info in infos:
            if len(self._hinted) < MAX_HINTED:
                self._hinted.setdefault(info.id, info)

    def _ask(self, asked: _Asked, source: Fetching) -> None:
        source.withdraw(asked.number)
        asked.number = source.ask(self._name, self, asked.piece_size)

    def _dial(self, asked: _Asked) -> None:
        dialling = self._contacts.reach(asked.info)
        asked.dialling = dialling

        def reached(conversation: Conversation) -> None:
            asked.dialling = None
            if self._stopped or conversation.ended:
                self._retry(asked)
                return
            asked.pause = FIRST_PAUSE
            asked.source = conversation.fetching
            asked.number = conversation.fetching.ask(self._name, self)

        def failed(failure: Failure) -> None:
            asked.dialling = None
            asked.answered = True
            asked.failures += 1
            if asked.failures >= HINT_TRIES:
                self._hinted.pop(asked.info.id, None)
            refused = failure.check(RefusedError) is not None
            self._offers.unreachable(asked.info.id, failure.getErrorMessage() if refused else None)
            self._retry(asked)
            self._answered()

        dialling.addCallbacks(reached, failed)

    def _retry(self, asked: _Asked) -> None:
        asked.again_at = self._contacts.now() + asked.pause * random.uniform(0.5, 1.0)
        asked.pause = min(asked.pause * 2, LONGEST_PAUSE)

    def ask_again(self, source: Fetching, piece_size: int) -> None:
        """Ask for an offer of the same file at another piece size."""
        asked = self._of(source)
        if asked is not None:
            asked.piece_size = piece_size
            self._offers.reoffering(asked.info.id, self._contacts.now())
            self._ask(asked, source)

    def gone(self, source: Fetching) -> None:
        """It took its offer back: asked anew after a while, each time a longer one."""
        asked = self._of(source)
        if asked is not None and asked.anew_at is None:
            asked.anew_at = self._contacts.now() + asked.anew_pause * random.uniform(0.5, 1.0)
            asked.anew_pause = min(asked.anew_pause * 2, LONGEST_GONE)

    def withdraw(self, source: Fetching) -> None:
        """It is not asked any more; by the next sweep it is anew, if it is allowed then."""
        asked = self._of(source)
        if asked is not None:
            del self._asked[asked.info.id]
            if not source.ended:
                source.withdraw(asked.number)

    def stop(self) -> None:
        """The `req` stands no longer."""
        self._stopped = True
        for asked in self._asked.values():
            if asked.source is not None and not asked.source.ended:
                asked.source.withdraw(asked.number)
        self._asked.clear()

    def _of(self, source: Fetching) -> _Asked | None:
        return next((asked for asked in self._asked.values() if asked.source is source), None)

    # Answers

    def offered(self, source: Fetching, offer: Offer, have: Bitfield | None) -> None:
        """`have`."""
        asked = self._of(source)
        if asked is not None:
            asked.anew_at, asked.answered, asked.offered = None, True, True
            self._offered(source, offer, have)

    def not_have(self, source: Fetching) -> None:
        """`not have`."""
        asked = self._of(source)
        if asked is not None:
            asked.answered, asked.offered = True, False
            self._offers.not_have(asked.info.id)
            self._answered()

    def hashing(self, source: Fetching, done: int, size: int) -> None:
        """It hashes the file."""
        asked = self._of(source)
        if asked is not None:
            self._offers.hashing(asked.info.id, done, self._contacts.now())

    def lost(self, source: Fetching) -> None:
        """The conversation is over: it is dialled again while its peer is listed."""
        asked = self._of(source)
        other = self._contacts.with_peer(asked.info.id) if asked is not None else None
        if asked is not None:
            asked.anew_at = asked.source = None
            asked.offered = False
        if asked is not None and other is not None and not self._stopped:
            # One of two was closed: nobody is to think that he did not answer.
            self._offers.asked(asked.info.id, asked.info.name, self._contacts.now())
            asked.source = other.fetching
            asked.number = other.fetching.ask(self._name, self, asked.piece_size)
        elif asked is not None:
            if asked.answered or asked.failures:
                self._offers.unreachable(asked.info.id)
            else:
                asked.failures += 1  # something else ended it: that is no answer, so he is dialled once more
            asked.again_at = self._contacts.now() + FIRST_PAUSE * random.uniform(0.2, 0.6)
        self._left(source)
