"""What is asked of whom, and whether somebody else is to be asked for one of the last pieces, too. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection

from p2pd.fetch.sources import Get, Source
from p2pd.pieces import mask_of

PATIENCE = 1.0
"""Seconds of silence after which a source's rate no longer counts."""
UNKNOWN = 5.0
"""Seconds that a piece is taken to need from a source whose rate is not known."""
GAIN = 1.5
"""Who is asked besides must be expected to be done this many times sooner,"""
LEAST = 0.25
"""and is taken to need so many seconds at least."""
TRIED = 10.0
"""Seconds after a piece was asked for first in which two who are on it have to do,"""
ALIKE = 4.0
"""A source that is so many times slower than another one does not share a full link with it."""
FASTER = 4.0
"""and how many times faster than all comes now a third one must have sent to take the place of one: where our
own link is slow, a third one is no faster, and what came of the other was for nothing."""


Entry = tuple[Source, Get]


def seconds_to_come(source: Source, get: Get, now: float) -> float | None:
    """Seconds in which a piece of ``get`` can be expected; None: not to be said yet."""
    silence = now - max(source.heard, get.asked)
    if silence > PATIENCE:
        return UNKNOWN + silence  # the rate measured before says nothing any more
    return get.left / source.rate if source.rate else None


def slower(entries: list[Entry], now: float) -> Entry:
    """The one who would need longest for the rest, at the pace at which its bytes came."""

    def rest(entry: Entry) -> float:
        get = entry[1]
        return get.left / max(get.length - get.left, 1) * (now - get.asked)

    return max(entries, key=rest)


class Asked:
    """Pieces that are asked for, and of whom; times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._of: dict[int, list[Entry]] = {}
        self._since: dict[int, float] = {}
        """When pieces that have not come were asked for first, of whomever."""
        self._taken: dict[int, int] = {}
        """How often pieces that have not come were taken from those who were on them."""

    def __bool__(self) -> bool:
        return bool(self._of)

    def __contains__(self, piece: int) -> bool:
        return piece in self._of

    def of(self, piece: int) -> list[Entry]:
        """Who is asked for it, and by which get."""
        return list(self._of.get(piece, ()))

    def add(self, source: Source, get: Get) -> None:
        """The source is asked for these."""
        for piece in get.pending:
            self._of.setdefault(piece, []).append((source, get))
            self._since.setdefault(piece, get.asked)

    def forget(self, piece: int, get: Get) -> None:
        """That get will not bring it, or did."""
        entries = [entry for entry in self._of.get(piece, ()) if entry[1] is not get]
        if entries:
            self._of[piece] = entries
        else:
            self._of.pop(piece, None)

    def came(self, piece: int) -> None:
        """It is here."""
        self._since.pop(piece, None)
        self._taken.pop(piece, None)

    def taken(self, piece: int) -> None:
        """It was taken from those who were on it, with what had come of it."""
        self._taken[piece] = self._taken.get(piece, 0) + 1

    def long_ago(self, now: float) -> int:
        """The pieces that two who were asked for them should have brought by now (a mask)."""
        return mask_of(piece for piece in self._of if now - self._since[piece] > TRIED)

    def late(self, now: float) -> list[int]:
        """The pieces that are expected late enough that somebody else may bring them sooner."""
        return [
            piece
            for piece, entries in self._of.items()
            if (expected(entries, now, now - self._since[piece]) or 0.0) > GAIN * LEAST
        ]

    def slowest(
        self, source: Source, among: Collection[Source], could: Callable[[int], bool],
        length: Callable[[int], int], now: float, *, late: Collection[int] | None = None,
    ) -> int | None:  # fmt: skip
        """Of those for which ``could`` is true, the piece that ``source`` brings sooner by most; or None.

        ``among``: all sources; ``length`` gives a piece's bytes; ``late``: what :meth:`late` says now,
        where several are asked about.
        """
        if late is None:
            late = self.late(now)
        if not late:
            return None
        busy = [each for each in among if each.gets and now - each.heard <= PATIENCE]
        coming = sum(each.rate for each in busy)
        # Those who are silent or far slower do not fill our link: nothing of theirs is waited for. Nor is it
        # where it cannot be said who is slower.
        like = [each for each in busy if each.rate * ALIKE >= source.rate > 0]
        rate = sum(each.rate for each in like)
        left = sum(get.left for each in like for get in each.gets.values())
        best: tuple[float, int] | None = None
        for piece in late:
            entries = self._of[piece]
            if any(other is source for other, _ in entries) or not could(piece):
                continue
            own = min((get.left for other, get in entries if other in like), default=0)
            theirs = gain(
                source, length(piece), entries, now, waited=now - self._since[piece], coming=coming,
                beside=(left - own) / rate if rate else 0.0, taken=self._taken.get(piece, 0),
            )  # fmt: skip
            if theirs and (best is None or theirs > best[0]):
                best = theirs, piece
        return best[1] if best is not None else None


def expected(entries: list[Entry], now: float, waited: float) -> float | None:
    """The seconds in which the first of ``entries`` can be expected to bring what it was asked for.

    None: not to be said. ``waited``: seconds since that was asked for first, of whomever.
    """
    each = [seconds_to_come(other, get, now) for other, get in entries]
    known = [seconds for seconds in each if seconds is not None]
    if len(known) == len(each):
        return min(known)
    return UNKNOWN + waited if len(each) == 1 and waited > PATIENCE else None


def gain(
    source: Source,
    length: int,
    entries: list[Entry],
    now: float,
    *,
    waited: float,
    coming: float,
    beside: float,
    taken: int = 0,
) -> float:
    """The seconds in which a piece of ``length`` bytes can be expected from ``entries``, who have been
    asked for it, where ``source`` would be so much sooner that it is to be asked too; else 0.

    ``waited``: seconds since it was asked for first, of whomever: where those who were asked took the
    request and did not serve it, nobody is waited for again. ``coming``: bytes per second, of all sources,
    ``beside``: seconds until what else was asked for has come, of sources about as fast: where they fill
    our link, one more is no sooner than they are.
    ``taken``: how often the piece was taken from others before, with what had come of it: each time was
    on the word of a rate that did not hold, so the next needs twice the gain.
    """
    if len(entries) > 1 and (waited < TRIED or not source.proved or source.rate <= FASTER * coming):
        return 0.0
    theirs = expected(entries, now, waited)
    if theirs is None:
        return 0.0
    mine = max(length / source.rate if source.rate else UNKNOWN, LEAST, beside)
    return theirs if theirs > GAIN * 2.0 ** min(taken, 20) * mine else 0.0
