"""How many bytes are asked of a source, or handed out, at once. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from p2pd.fetch.sources import Source
from p2pd.pieces import Bitfield

FIRST_RUN = 128 * 1024
"""Bytes asked for at once before a source's rate is known: others may want some in a moment."""
RUN_SECONDS = 0.1
"""Later a run is about this long, so that little is lost with a source."""
SWARM_RUN = 0.08
"""In a swarm it is what comes from all together in so many seconds: each source has others to send to, but
sends each range as fast as its link is. What a complete holder names is as long, by its own rate;"""
LEAST_RUN = 256 * 1024
"""so many bytes at least, for each run costs both sides the same work;"""
BEGUN = 20
"""and so as soon as this part of the file is here: before, what comes in is to go out to somebody at once."""
MAX_RUN = 64 * 1024 * 1024
"""Bytes asked for at once at most (or one piece), however much is granted."""
NAMED_SECONDS = 1.0
LEAST_NAMED = 1024 * 1024
"""What a source names itself is taken from it up to what it sends in so many seconds, or so many bytes:
it names little where it is honest, and is not to have all that is missing asked of it where it is not."""


def begun(held: Bitfield) -> bool:
    """True once enough is here that nobody waits for each piece of it."""
    return len(held) * BEGUN >= held.count


def length(source: Source, swarm: Iterable[Source]) -> int:
    """Bytes that we choose ourselves; ``swarm``: all sources, where there is one and it is under way."""
    alone = int(source.rate * RUN_SECONDS) or FIRST_RUN
    together = sum(each.rate for each in swarm)
    return max(alone, int(together * SWARM_RUN), LEAST_RUN) if together else alone


def named(source: Source) -> int:
    """Bytes that it names itself."""
    return max(LEAST_NAMED, int(source.rate * NAMED_SECONDS))
