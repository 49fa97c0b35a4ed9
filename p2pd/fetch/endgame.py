"""Whether somebody else is to be asked for one of the last pieces, too. Pure."""

from __future__ import annotations

from p2pd.fetch.sources import Get, Source

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
FASTER = 4.0
"""and how many times faster than all comes now a third one must have sent to take the place of one: where our
own link is slow, a third one is no faster, and what came of the other was for nothing."""


def seconds_to_come(source: Source, get: Get, now: float) -> float | None:
    """Seconds in which a piece of ``get`` can be expected; None: not to be said yet."""
    silence = now - max(source.heard, get.asked)
    if silence > PATIENCE:
        return UNKNOWN + silence  # the rate measured before says nothing any more
    return get.left / source.rate if source.rate else None


def slower(entries: list[tuple[Source, Get]], now: float) -> tuple[Source, Get]:
    """The one who would need longest for the rest, at the pace at which its bytes came."""

    def rest(entry: tuple[Source, Get]) -> float:
        get = entry[1]
        return get.left / max(get.length - get.left, 1) * (now - get.asked)

    return max(entries, key=rest)


def gain(
    source: Source,
    length: int,
    entries: list[tuple[Source, Get]],
    now: float,
    *,
    waited: float,
    coming: float,
) -> float:
    """The seconds in which a piece of ``length`` bytes can be expected from ``entries``, who have been
    asked for it, where ``source`` would be so much sooner that it is to be asked too; else 0.

    ``waited``: seconds since it was asked for first, of whomever: where those who were asked took the
    request and did not serve it, nobody is waited for again. ``coming``: bytes per second, of all sources.
    """
    if len(entries) > 1 and (waited < TRIED or not source.proved or source.rate <= FASTER * coming):
        return 0.0
    expected = [seconds_to_come(other, get, now) for other, get in entries]
    known = [each for each in expected if each is not None]
    if len(known) == len(expected):
        theirs = min(known)
    elif len(entries) == 1 and waited > PATIENCE:
        theirs = UNKNOWN + waited
    else:
        return 0.0
    mine = max(length / source.rate if source.rate else UNKNOWN, LEAST)
    return theirs if theirs > GAIN * mine else 0.0
