"""Which content a `req` is about: the offers that came, the one chosen, and when they contradict."""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto
from typing import Any

from p2pd.model import FileId, Manifest, Offer, PeerId, PeerInfo
from p2pd.peer.bans import Bans
from p2pd.peer.fetching import Fetching
from p2pd.peer.offers import Offers
from p2pd.pieces import Bitfield

ASK_AGAIN = 3
"""Times that a peer is asked to offer at our piece size."""

Offering = tuple[Fetching, Offer, Bitfield | None]


class Verdict(Enum):
    """What to do about an offer."""

    USE = auto()
    ASK_AGAIN = auto()
    """Not yet a conflict: hashed at our piece size it may be the same content."""
    CONFLICT = auto()
    """Another content than that of an offer before: nothing can be used before all have answered."""
    IGNORE = auto()


def peer_of(source: Fetching) -> PeerInfo:
    """Who is on the other side."""
    other = source.link.other
    return PeerInfo(other.id, other.name, other.host, other.port)


class Choosing:
    """``wanted``: the id that was asked for, or None. ``settled``: it was chosen in an earlier run."""

    def __init__(self, offers: Offers, bans: Bans, wanted: FileId | None, *, settled: bool) -> None:
        self.offers = offers
        self._bans = bans
        self.wanted = wanted
        self.pinned = wanted is not None
        self._settled = settled
        self._dimensions: tuple[int, int, FileId] | None = None
        self._asked_again: Counter[PeerId] = Counter()
        self.offering: dict[PeerId, Offering] = {}
        """Of each peer what it offers now; other contents than the chosen one included."""

    def judge(self, source: Fetching, offer: Offer, have: Bitfield | None, now: float) -> Verdict:
        """An offer came; where it counts, it is remembered."""
        peer = peer_of(source)
        if self._bans.stands(peer.id, now):
            return Verdict.IGNORE
        chosen = self.chosen()
        if (
            chosen is not None
            and offer.file_id != chosen[2]
            and offer.size == chosen[0]
            and offer.piece_size != chosen[1]
        ):
            self._asked_again[peer.id] += 1
            return Verdict.ASK_AGAIN if self._asked_again[peer.id] <= ASK_AGAIN else Verdict.IGNORE
        late = self.offers.closed(now)
        self.offers.have(peer.id, offer, now, wanted=self.wanted in (None, offer.file_id))
        self.offering[peer.id] = (source, offer, have)
        if late or not self.contested:
            return Verdict.USE if self.wanted in (None, offer.file_id) else Verdict.IGNORE
        return Verdict.CONFLICT

    @property
    def contested(self) -> bool:
        """True where the offers are of several contents, and nobody said which one."""
        return not (self.pinned or self._settled) and len(self.offers.by_id()) > 1

    def chosen(self) -> tuple[int, int, FileId] | None:
        """Size, piece size and id of what is fetched or, before that is known, of the first fitting offer."""
        if self._dimensions is not None:
            return self._dimensions
        for _, offer, _ in self.offering.values():
            if self.wanted in (None, offer.file_id):
                return offer.size, offer.piece_size, offer.file_id
        return None

    def choose(self, manifest: Manifest) -> None:
        """This content it is."""
        self.wanted = manifest.file_id
        self._dimensions = (manifest.size, manifest.piece_size, manifest.file_id)

    def check(self, offer: Offer) -> None:
        """ValueError where it gives the id chosen another size or piece size than it stands for."""
        size, piece_size, file_id = self._dimensions or (0, 0, None)
        if offer.file_id == file_id and (offer.size, offer.piece_size) != (size, piece_size):
            raise ValueError(f"that id stands for {size} bytes in pieces of {piece_size}")

    @property
    def made(self) -> bool:
        """True once the choice is made for good: by a manifest."""
        return self._dimensions is not None

    def holder(self, tried: set[PeerId]) -> tuple[PeerId, Fetching, Offer] | None:
        """Somebody not yet tried who offers what is wanted."""
        for peer, (source, offer, _) in self.offering.items():
            if self.wanted in (None, offer.file_id) and peer not in tried and not source.ended:
                return peer, source, offer
        return None

    def distrust(self, source: Fetching, now: float) -> float:
        """It lied: nothing of it counts any more. Gives the seconds for which it is not asked."""
        peer = peer_of(source)
        seconds = self._bans.ban(peer, now)
        self.offers.not_have(peer.id)
        self.forget(source)
        return seconds

    def forget(self, source: Fetching) -> None:
        """Its offer does not stand any more."""
        for peer in [peer for peer, offering in self.offering.items() if offering[0] is source]:
            del self.offering[peer]

    def variants_now(self) -> list[dict[str, Any]]:
        """As :meth:`variants`, of the offers that stand now."""
        rows: dict[FileId, dict[str, Any]] = {}
        for source, offer, _ in self.offering.values():
            row = rows.setdefault(offer.file_id, {"id": offer.file_id, "size": offer.size, "holders": []})
            row["holders"].append(peer_of(source).name)
        return list(rows.values())

    def variants(self, mine: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """What a conflict lists, what is here (``mine``) included."""
        rows = self.offers.variants()
        for row in rows:
            if mine is not None and row["id"] == mine["id"]:
                row["holders"] += mine["holders"]
                return rows
        return rows + ([mine] if mine is not None else [])
