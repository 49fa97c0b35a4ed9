"""When a downloader has enough on its way, so that sources had better serve others. Pure.

Where pieces are long, many downloaders that all take whatever they are offered get in each other's
way: some links have five pieces coming in, each slowly, and others none. So with some requests out
a grant that its source could as well give to somebody else is put off; when one of the requests
is through, some of those sources are told `want` again. What a source would send to nobody else
is always taken: it is nobody's loss, and who trickles does not keep us from such sources.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from p2pd.fetch.runs import LONG_AT_ONCE
from p2pd.fetch.sources import Get, Source

RECALLED = 5
"""Sources that put off are told `want` again at once: each of those that has room meanwhile grants, and
all but the first are put off again."""
LONG = 4.0
"""A request that takes so many times as long as requests took here does not count: it trickles."""
FILLED = 0.5
"""Nor are requests enough from which less than this part comes of what came at best: they are slow."""
REMEMBERED = 10.0
"""Seconds in which that counts half."""
LEAST_LONG = 0.25
MOST_LONG = 120.0
"""Seconds: that is at least so long, and at most;"""
FIRST_LONG = 10.0
"""so long as long as nothing came."""


class Enough:
    """What is on its way, and who was put off because of it; ``seed``: whom of them to recall first."""

    def __init__(self, seed: str) -> None:
        self._lots = random.Random(seed)
        self.requests = LONG_AT_ONCE
        """So many are enough."""
        self._took: float | None = None  # seconds, smoothed
        self._best = 0.0  # bytes per second, of all that was on its way at once
        self._looked = 0.0

    def came(self, get: Get, now: float) -> None:
        """All that was asked for by ``get`` is here."""
        took = now - get.asked
        self._took = took if self._took is None else self._took + (took - self._took) * 0.1

    def reached(self, sources: Collection[Source], now: float) -> bool:
        """True where enough is on its way from ``sources``; asked often, it knows their best rate."""
        longest = FIRST_LONG if self._took is None else min(max(self._took * LONG, LEAST_LONG), MOST_LONG)
        count, rate, unknown = 0, 0.0, 0
        for source in sources:
            live = sum(1 for get in source.gets.values() if now - get.asked < longest)
            count += live
            if live:
                rate += source.rate
                unknown += not source.rate
        self._best = max(rate, self._best * 0.5 ** ((now - self._looked) / REMEMBERED))
        self._looked = now
        # Of whom nothing is known we expect as much as of the others.
        expected = rate + unknown * self._best / self.requests
        return count >= self.requests and expected >= self._best * FILLED

    def recalled(self, put_off: list[Source]) -> list[Source]:
        """Some of those who were put off, and no longer are then."""
        some = self._lots.sample(put_off, min(RECALLED, len(put_off)))
        for source in some:
            source.put_off = False
        return some
