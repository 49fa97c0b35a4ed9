"""Which piece from whom next. Pure: no I/O, no clock.

Every piece is missing, asked for, or held. ``_rarity`` keeps one byte per piece:
how many partial sources have it (capped) where it is missing, ``_TAKEN``
otherwise; so every question is a ``find`` or ``count`` of one byte value, at the
speed of C, and no list of pieces is ever walked.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Iterator

import attrs

from p2pd.pieces import Bitfield, share_bounds

_TAKEN = 255
_RAREST_CAP = 254

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


@attrs.define(eq=False)
class _Source:
    key: SourceKey
    order: str
    have: Bitfield | None  # None: complete
    share: tuple[int, int] = (0, 0)


class Picker:
    """Rarest first; among equally rare pieces the source's own share first, then others' tails.

    ``order`` of a source (its peer id) ranks the complete holders: holder i of n
    streams pieces [i*count//n, (i+1)*count//n) and, once done, helps the share
    with most still missing, from its tail, so that two never race for one piece.
    With ``seed`` (several downloaders on the file), equally rare pieces are
    taken from a place that depends on it, so that downloaders hold different ones.
    """

    def __init__(self, held: Bitfield, seed: str | None = None) -> None:
        self._count = held.count
        self._held = held
        self._rarity = bytearray(self._count)
        for piece in held:
            self._rarity[piece] = _TAKEN
        self._partial = bytearray(self._count)  # partial sources per piece, capped
        self._sources: dict[SourceKey, _Source] = {}
        self._random = random.Random(seed) if seed is not None else None
        self._missing = self._count - len(held)

    @property
    def missing(self) -> int:
        """How many pieces are neither held nor asked for."""
        return self._missing

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
        if have is not None and have.complete:
            have = None
        self._sources[key] = _Source(key, order, have.copy() if have is not None else None)
        for piece in have if have is not None else ():
            self._add_rarity(piece, 1)
        self._share_out()

    def remove_source(self, key: SourceKey) -> None:
        """The source is gone; what was asked of it is given back by :meth:`give_back`."""
        source = self._sources.pop(key)
        for piece in source.have if source.have is not None else ():
            self._add_rarity(piece, -1)
        self._share_out()

    def source_has(self, key: SourceKey, pieces: Iterable[int]) -> None:
        """A partial source announces further pieces. IndexError for one out of range."""
        source = self._sources[key]
        if source.have is None:
            return
        for piece in pieces:
            if source.have.add(piece):
                self._add_rarity(piece, 1)

    def could_help(self, key: SourceKey) -> bool:
        """True where the source has a piece that is missing and not asked for."""
        return self._next(self._sources[key]) is not None

    def take(self, key: SourceKey, limit: int) -> Run | None:
        """Up to ``limit`` neighbouring pieces for this source, now asked for; None: nothing to ask."""
        source = self._sources[key]
        found = self._next(source)
        if found is None:
            return None
        piece, step, (low, high) = found
        rarity = self._rarity[piece]
        end = piece + step
        taken = 1
        while taken < limit and low <= end < high and self._rarity[end] == rarity:
            if source.have is not None and end not in source.have:
                break
            end += step
            taken += 1
        run = Run(piece, end) if step > 0 else Run(end + 1, piece + 1)
        self._rarity[run.first : run.end] = bytes([_TAKEN]) * len(run)
        self._missing -= len(run)
        return run

    def give_back(self, piece: int) -> None:
        """A piece that was asked for did not come: it is missing again."""
        if piece not in self._held and self._rarity[piece] == _TAKEN:
            self._rarity[piece] = self._partial[piece]
            self._missing += 1

    def got(self, piece: int) -> bool:
        """A piece is verified and held; False where it was held before."""
        if not self._held.add(piece):
            return False
        if self._rarity[piece] != _TAKEN:
            self._rarity[piece] = _TAKEN
            self._missing -= 1
        return True

    def has(self, key: SourceKey, piece: int) -> bool:
        """True where the source has ``piece``."""
        have = self._sources[key].have
        return have is None or piece in have

    def _add_rarity(self, piece: int, change: int) -> None:
        self._partial[piece] = max(0, min(_RAREST_CAP, self._partial[piece] + change))
        if self._rarity[piece] != _TAKEN:
            self._rarity[piece] = self._partial[piece]

    def _share_out(self) -> None:
        complete = sorted(
            (s for s in self._sources.values() if s.have is None), key=lambda s: (s.order, str(s.key))
        )
        for rank, source in enumerate(complete):
            source.share = share_bounds(rank, len(complete), self._count)

    def _next(self, source: _Source) -> tuple[int, int, tuple[int, int]] | None:
        """(piece, step, bounds of the run) or None. ``step`` -1: taken from a tail, backwards."""
        if not self._missing:
            return None
        for rarity in range(_TAKEN):
            if rarity > len(self._sources):
                return None
            found = self._of_rarity(source, rarity)
            if found is not None:
                return found
        return None

    def _of_rarity(self, source: _Source, rarity: int) -> tuple[int, int, tuple[int, int]] | None:
        everything = (0, self._count)
        if source.have is not None:
            start = self._random.randrange(self._count) if self._random else 0
            for low, high in ((start, self._count), (0, start)):
                piece = self._rarity.find(rarity, low, high)
                while piece >= 0:
                    if piece in source.have:
                        return piece, 1, everything
                    piece = self._rarity.find(rarity, piece + 1, high)
            return None
        if self._random is not None:
            start = self._random.randrange(self._count)
            for low, high in ((start, self._count), (0, start)):
                piece = self._rarity.find(rarity, low, high)
                if piece >= 0:
                    return piece, 1, (low, high)
            return None
        low, high = source.share
        piece = self._rarity.find(rarity, low, high)
        if piece >= 0:
            return piece, 1, (low, high)
        best: tuple[int, tuple[int, int]] | None = None
        for other in self._sources.values():
            if other is not source and other.have is None:
                left = self._rarity.count(rarity, *other.share)
                if left and (best is None or left > best[0]):
                    best = (left, other.share)
        if best is None:
            return None
        low, high = best[1]
        # Its owner comes from the front: the two meet in the middle of what is left.
        return self._rarity.rfind(rarity, low, high), -1, (low, high)
