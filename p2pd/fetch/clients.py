"""What :mod:`p2pd.fetch.granting` knows of those who want some of a file. Pure."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable

import attrs

from p2pd.fetch.picker import Run
from p2pd.fetch.rarity import Rarity
from p2pd.fetch.runs import LONG_AT_ONCE, WHOLE_AT_ONCE
from p2pd.pieces import Bitfield

ClientKey = Hashable
FileKey = Hashable
SLOW = 12.0
"""A downloader that takes less than this part of our rate while we send to it holds up nobody else."""
STUCK = 1.0
"""Nor does one that a range goes out to for longer than this, and longer than a slow one's would."""
BASE_DELAY_RISE = 0.001
"""By this part the base delay comes nearer to the newest one with each grant that is used."""


@attrs.define(eq=False)
class Open:
    """A grant that was given, and what became of it."""

    grant: int
    client: Client
    bytes: int
    """As many as it is expected to be used for, or is."""
    at: float
    choice: int
    """Bytes at most that the downloader chooses by it, where several want some; else 0."""
    run: Run | None = None  # named by us, or by them
    ours: bool = False  # named by us
    needed: bool = True  # lest our link idle
    used: bool = False
    began: float | None = None
    """When sending began."""

    def takes(self, length: int) -> None:
        """It is used for so many bytes."""
        if self.choice:
            stock = self.client.file
            stock.taken += (min(length / self.choice, 1.0) - stock.taken) * 0.1

    def hangs(self, now: float, best: float) -> bool:
        """True where it goes out far too slowly; ``best``: our highest rate, in bytes per second."""
        took = now - self.began if self.began is not None else 0.0
        return took > STUCK and (not best or took * best >= self.bytes * SLOW)


@attrs.define(eq=False)
class Client:
    """One who wants some of a file, or told what he has of it."""

    key: ClientKey
    file: Stock
    served: float
    lot: float
    """Decides among equals: not all who send are to begin with the same one."""
    want: int = 0
    announced: int = 0
    given: int = 0
    """Pieces that were named by a grant of ours: they are on their way, or came."""
    owed: int = 0
    """The same, also where it said `want` since: it is to pass them on."""
    place: int = 0
    """Where our share begins, it says."""
    named: int = 0
    """Pieces that we named to it. Once is enough for what we name unasked: it may choose them."""
    once: bool = False
    """It wants only what nobody was sent or has announced."""
    refused: int = 0
    """Pieces that it declined: it has them, or asked somebody else."""
    quiet: bool = False
    """It had nothing to ask for: not before something changed."""
    later: bool = False
    """Enough is on its way to it: until the next `want` it gets what we would send to nobody else."""
    open: dict[int, Open] = attrs.Factory(dict)
    rate: float = 0.0
    stuck: bool = False
    """It takes what is being sent to it far too slowly."""
    dawdles: bool = False
    """It did not use its last grants, or not in time."""
    declines: int = 0
    base_delay: float | None = None
    """The shortest time in which it used a grant, of late."""

    def used_after(self, seconds: float) -> None:
        """It used a grant after so long."""
        base = seconds if self.base_delay is None else self.base_delay
        self.base_delay = min(seconds, base + (seconds - base) * BASE_DELAY_RISE)

    def slow(self, best: float) -> bool:
        """True where it holds up nobody else; ``best``: our highest rate, in bytes per second."""
        return self.stuck or (bool(self.rate) and self.rate * SLOW < best)

    @property
    def burden(self) -> int:
        """Pieces that he was given and nobody else has: sent once, and announced by himself."""
        return (self.owed & self.file.counts.at_most(2)).bit_count()

    @property
    def lacks(self) -> int:
        """Pieces that we could give it."""
        stock = self.file
        could = stock.held.mask if stock.held is not None else stock.everything
        if self.once:
            could &= stock.counts.at_most(0)
        return could & ~(self.announced | self.given | self.refused)

    @property
    def lacks_first(self) -> int:
        """Those of them that we name, though it has nothing to ask for."""
        first = self.file.first
        return self.lacks & first.mask & ~self.named if first is not None else 0


@attrs.define(eq=False)
class Stock:
    """A file that somebody wants; ``held`` None: all of it is here."""

    key: FileKey
    count: int
    piece_size: int
    held: Bitfield | None
    first: Bitfield | None
    """The pieces that came of a complete holder: it gives most of them to nobody else."""
    everything: int
    counts: Rarity
    at_once: int = LONG_AT_ONCE
    """So many are sent at once where they are long."""
    once: int = 0  # how many of the clients want each piece once
    taken: float = 1.0  # the part of a grant that is used, of late, where others choose the pieces
    clients: dict[ClientKey, Client] = attrs.Factory(dict)

    @property
    def handed_out(self) -> int:
        """How many pieces somebody was given, or has."""
        return self.count - self.counts.at_most(0).bit_count()

    @property
    def wanted(self) -> bool:
        """True while somebody wants some of it."""
        return any(client.want for client in self.clients.values())

    @property
    def complete(self) -> bool:
        """True where all of it is here."""
        return self.held is None or self.held.complete


def usual_delay(clients: Iterable[Client]) -> float:
    """Seconds: the median of the base delays of those who want some; one of them says nothing of all."""
    delays = sorted(
        each.base_delay for each in clients if each.base_delay is not None and (each.want or each.open)
    )
    return delays[len(delays) // 2] if delays else 0.0


def long_at_once(stocks: Collection[Stock], *, filled: bool) -> int:
    """How many long pieces of these files are sent at once; ``filled``: by so many our link is."""
    wanted = [stock.at_once for stock in stocks if stock.complete and stock.wanted]
    if wanted:  # whoever has all may have the faster link
        return max(wanted) if filled else WHOLE_AT_ONCE
    at_once = min((stock.at_once for stock in stocks), default=LONG_AT_ONCE)
    return at_once if filled else 2 * at_once
