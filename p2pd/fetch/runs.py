"""How many bytes are asked of a source, or handed out, at once. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from p2pd.fetch.sources import Source
from p2pd.pieces import Bitfield

FIRST_RUN = 128 * 1024
"""Bytes asked for at once before a source's rate is known: others may want some in a moment."""
RUN_SECONDS = 0.1
"""Later a run is about this long, so that little is lost with a source."""
SWARM_RUN = 0.08
"""In a swarm it is what comes from all together in so many seconds: each source has others to send to, but
sends each range as fast as its link is;"""
LEAST_RUN = 256 * 1024
LEAST_SECONDS = 0.5
"""so many bytes at least, or what comes in so many seconds: each run costs both sides the same work, and
where that is what limits, runs that became shorter would make it worse;"""
PARTS = 512
MOST_LEAST = 1024 * 1024
PART_SECONDS = 0.2
"""or this part of the file, so many bytes at most, or what comes in so many seconds;"""
BEGUN = 20
"""all of it as soon as this part of the file is here: before, what comes in is to go out at once;"""
BEGUN_PIECES = 8
MUCH = 100
"""of a file of many pieces, as soon as these are here, and this part of it."""
NAMED_RUN = 0.02
NAMED_LEAST = 128 * 1024
"""What is named to one of several is what goes out in so many seconds, or so many bytes: the sooner everybody
has something to pass on, and nobody is left without anything new for long."""
MAX_RUN = 64 * 1024 * 1024
"""Bytes asked for at once at most (or one piece), however much is granted."""
NAMED_SECONDS = 1.0
LEAST_NAMED = 1024 * 1024
"""What a source names itself is taken from it up to what it sends in so many seconds, or so many bytes:
it names little where it is honest, and is not to have all that is missing asked of it where it is not."""

LONG_AT_ONCE = 3
"""Of long pieces a source sends so many at once, and so many requests are enough for a downloader: that
evens out who has how much."""
FEW_AT_ONCE = 2
"""Fewer where a file has few pieces for so many peers: it takes as long as the last piece takes to come to
all, in steps that double its holders, and each is through the sooner,"""
STEPS = 15
"""few being so many times those steps."""
WHOLE_AT_ONCE = 4
"""Who has all of it may have the faster link, which slower ones that take few at once would not fill;"""
HUNDREDS = 500
"""of those who take few pieces of it, however, so many fill any link a moment later."""


def long_at_once(count: int, peers: int) -> int:
    """How many of ``count`` long pieces are sent, or asked for, at once, with ``peers`` on the file."""
    return FEW_AT_ONCE if count < STEPS * math.log2(max(peers, 1)) else LONG_AT_ONCE


def whole_at_once(count: int, peers: int) -> int:
    """As :func:`long_at_once`, of who has all of them: how many are sent."""
    few = peers >= HUNDREDS and long_at_once(count, peers) == FEW_AT_ONCE
    return FEW_AT_ONCE if few else WHOLE_AT_ONCE


def begun(held: Bitfield) -> bool:
    """True once enough is here that nobody waits for each piece of it."""
    return len(held) >= min(held.count / BEGUN, max(held.count / MUCH, BEGUN_PIECES))


def of_swarm(rate: float, size: int) -> int:
    """Bytes at once, in a swarm, of a file of ``size`` bytes; ``rate``: what comes, or goes, in a second."""
    return max(
        int(rate * SWARM_RUN),
        min(LEAST_RUN, int(rate * LEAST_SECONDS)),
        min(size // PARTS, MOST_LEAST, int(rate * PART_SECONDS)),
    )


def to_name(rate: float) -> int:
    """Bytes that a source names at once to one of several; ``rate``: what it sends in a second."""
    return max(int(rate * NAMED_RUN), min(NAMED_LEAST, int(rate * LEAST_SECONDS)))


def length(source: Source, swarm: Iterable[Source], size: int) -> int:
    """Bytes that we choose ourselves; ``swarm``: all sources, where there is one and it is under way."""
    alone = int(source.rate * RUN_SECONDS) or FIRST_RUN
    together = sum(each.rate for each in swarm)
    return max(alone, of_swarm(together, size)) if together else alone


def chosen(
    source: Source, sources: Collection[Source], held: Bitfield, size: int, *, missing: int, swarm: bool
) -> int:
    """Bytes to choose of ``source``, one of ``sources``, while ``missing`` bytes are asked of nobody yet."""
    wanted = length(source, sources if swarm and begun(held) else (), size)
    return min(wanted, missing // (2 * len(sources))) if len(sources) > 1 else wanted


def named(source: Source) -> int:
    """Bytes that it names itself."""
    return max(LEAST_NAMED, int(source.rate * NAMED_SECONDS))
