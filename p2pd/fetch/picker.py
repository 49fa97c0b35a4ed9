"""Which piece from whom next. Pure: no I/O, no clock.

Every piece is held, asked for, or wanted. Sets of pieces are numbers whose bits are
pieces (see :func:`p2pd.pieces.mask_of`), so every question is a few operations on
whole numbers, and no list of pieces is ever walked.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator

import attrs

from p2pd.fetch.rarity import Rarity
from p2pd.pieces import Bitfield, highest, lowest, run_mask, share_bounds

SourceKey = Hashable


@attrs.frozen
class Run:
    """Pieces [first, end) that are asked of one source as one range."""

    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.end))

    @property
    def mask(self) -> int:
        """Its pieces, see :func:`p2pd.pieces.mask_of`."""
        return run_mask(self.first, self.end)


@attrs.define(eq=False)
class _Source:
    key: SourceKey
    order: str
    have: int  # mask
    partial: bool  # counts for rarity
    complete: bool
    share: tuple[int, int] = (0, 0)


class Picker:
    """Rarest first; among equally rare pieces the source's own share first, then others' tails.

    ``order`` of a source (its peer id) ranks the complete holders: holder i of n
    streams pieces [i*count//n, (i+1)*count//n) and, once done, helps the share
    with most still missing, from its tail, so that two never race for one piece.
    As soon as there are partial holders, equally rare pieces are taken from a place
    that depends on ``seed`` (the downloader's own id), so that downloaders hold
    different ones.
    """

    def __init__(self, held: Bitfield, seed: str = "") -> None:
        self._count = held.count
        self._held = held
        self._everything = run_mask(0, held.count)
        self._wanted = self._everything & ~held.mask
        self._rarity = Rarity(held.count)
        self._sources: dict[SourceKey, _Source] = {}
        self._partial = 0  # how many sources are, or once were, partial
        self._random = random.Random(seed)

    @property
    def missing(self) -> int:
        """How many pieces are neither held nor asked for."""
        return self._wanted.bit_count()

    @property
    def swarm(self) -> bool:
        """True where there are, or were, partial sources."""
        return self._partial > 0

    @property
    def held(self) -> Bitfield:
        """The pieces held; the caller's own object."""
        return self._held

    def add_source(self, key: SourceKey, order: str, have: Bitfield | None) -> None:
        """A source with the pieces of ``have`` (None: all). ValueError for a second one of that key."""
        if key in self._sources:
            raise ValueError(f"source {key!r} is known")
        if have is not None and have.count != self._count:
            raise ValueError(f"bitfield of {have.count} pieces, not {self._count}")
        partial = have is not None and not have.complete
        mask = have.mask if have is not None else self._everything
        self._sources[key] = _Source(key, order, mask, partial, not partial)
        if partial:
            self._partial += 1
            self._rarity.add(mask)
        self._share_out()

    def remove_source(self, key: SourceKey) -> None:
        """The source is gone; what was asked of it is given back by :meth:`give_back`."""
        source = self._sources.pop(key)
        if source.partial:
            self._partial -= 1
            self._rarity.remove(source.have)
        self._share_out()

    def source_has(self, key: SourceKey, mask: int) -> int:
        """A partial source announces further pieces; gives those that are new. IndexError for one out of
        range.
        """  # fmt: skip
        source = self._sources[key]
        if mask >> self._count:
            raise IndexError(f"piece {highest(mask)} of {self._count}")
        new = mask & ~source.have
        if not new:
            return 0
        source.have |= new
        self._rarity.add(new)
        if source.have == self._everything:
            source.complete = True
            self._share_out()
        return new

    def could_help(self, key: SourceKey, among: int = -1) -> bool:
        """True where the source has a piece (of ``among``) that is missing and not asked for."""
        return bool(self._wanted & self._sources[key].have & among)

    def parts(self) -> Iterator[tuple[str, int]]:
        """Who is still fetching: the ``order`` of each such source (its peer id), and its pieces."""
        return ((source.order, source.have) for source in self._sources.values() if not source.complete)

    @property
    def shared(self) -> bool:
        """True where others are still fetching too."""
        return any(True for _ in self.parts())

    @property
    def scarce(self) -> bool:
        """True where others are still fetching too, and what is wanted is with none of them."""
        parts = [have for _, have in self.parts()]
        return bool(parts and self._wanted) and not any(have & self._wanted for have in parts)

    def take(self, key: SourceKey, limit: int) -> Run | None:
        """Up to ``limit`` neighbouring pieces for this source, now asked for; None: nothing to ask."""
        source = self._sources[key]
        could = self._wanted & source.have
        if not could:
            return None
        if self._partial:
            run = around(could, self._somewhere(self._rarity.rarest(could)), limit)
        else:
            run = self._by_share(source, could, limit)
        self._wanted &= ~run.mask
        return run

    def take_named(self, key: SourceKey, run: Run, limit: int) -> Run | None:
        """Of ``run``, which this source says that it has, up to ``limit`` pieces that are wanted and
        neighbours, now asked for; None: there are none.
        """  # fmt: skip
        told = run.mask & self._everything
        self.source_has(key, told)
        wanted = self._wanted & told
        if not wanted:
            return None
        # Its neighbours come with the rarest one, not instead of it.
        taken = around(wanted, lowest(self._rarity.rarest(wanted)), limit)
        self._wanted &= ~taken.mask
        return taken

    def give_back(self, piece: int) -> None:
        """A piece that was asked for did not come: it is missing again."""
        if piece not in self._held:
            self._wanted |= 1 << piece

    def got(self, piece: int) -> bool:
        """A piece is verified and held; False where it was held before."""
        if not self._held.add(piece):
            return False
        self._wanted &= ~(1 << piece)
        return True

    def have(self, key: SourceKey) -> int:
        """The pieces of the source, as :func:`p2pd.pieces.mask_of` gives them."""
        return self._sources[key].have

    def complete(self, key: SourceKey) -> bool:
        """True where the source has all pieces."""
        return self._sources[key].complete

    def _share_out(self) -> None:
        complete = sorted(
            (s for s in self._sources.values() if s.complete), key=lambda s: (s.order, str(s.key))
        )
        for rank, source in enumerate(complete):
            source.share = share_bounds(rank, len(complete), self._count)

    def place(self, key: SourceKey) -> int:
        """The piece at which the share of a complete source begins; 0 of a partial one."""
        source = self._sources[key]
        return source.share[0] if source.complete else 0

    def _somewhere(self, among: int) -> int:
        start = self._random.randrange(self._count)
        behind = among >> start
        return start + lowest(behind) if behind else lowest(among)

    def _by_share(self, source: _Source, could: int, limit: int) -> Run:
        """Complete holders only: its own share from the front, or the tail of whoever has most to do."""
        own = could & run_mask(*source.share)
        if own:
            return forward(own, lowest(own), limit)
        shares = [run_mask(*other.share) for other in self._sources.values() if other.complete]
        # Its owner comes from the front: the two meet in the middle of what is left.
        left = max((could & share for share in shares), key=int.bit_count, default=0) or could
        return _backward(left, highest(left), limit)


def forward(among: int, first: int, limit: int) -> Run:
    """Neighbours in ``among`` from ``first`` on, up to ``limit``."""
    rest = among >> first
    ones = (rest ^ (rest + 1)).bit_length() - 1
    return Run(first, first + min(ones, limit))


def around(among: int, piece: int, limit: int) -> Run:
    """``piece`` and its neighbours in ``among``, of one group.

    Groups have ``limit`` pieces, or the power of two next below it, and begin at a multiple of that:
    pieces that came together go on together, and not one by one.
    """
    size = 1 << (limit.bit_length() - 1)
    first = piece - piece % size
    group = among >> first & ((1 << size) - 1)
    place = piece - first
    below = ~group & ((1 << place) - 1)
    above = group >> place
    ones = (above ^ (above + 1)).bit_length() - 1
    return Run(first + below.bit_length(), piece + ones)


def _backward(among: int, last: int, limit: int) -> Run:
    """Neighbours in ``among`` down from ``last``, up to ``limit``."""
    gap = (~among & run_mask(0, last + 1)).bit_length()
    return Run(max(gap, last + 1 - limit), last + 1)
