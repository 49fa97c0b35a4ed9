"""How much goes out in a second, as :mod:`p2pd.fetch.granting` goes by it. Pure."""

from __future__ import annotations

WINDOW = 0.1
"""Seconds over which what goes out is measured, shorter pauses included: others may wait for a processor."""
REMEMBERED = 10.0
"""Seconds in which the highest rate that was seen counts half: those who do not read make our rate
small, and are not to look fast beside it."""


class Outflow:
    """Bytes per second of all that goes out: ``rate``, smoothed, and ``best``, the highest one of late."""

    def __init__(self) -> None:
        self.rate = 0.0
        self.best = 0.0
        self._window = 0
        self._start = 0.0
        self._last = 0.0  # when something went out last

    def sent(self, count: int, now: float) -> None:
        """``count`` bytes went out."""
        self._window += count
        self._last = now
        span = now - self._start
        if span >= WINDOW:
            sample = self._window / span
            self.rate += (sample - self.rate) * (0.3 if self.rate and span < 1.0 else 1.0)
            self.best = max(self.rate, self.best * 0.5 ** (span / REMEMBERED))
            self._window, self._start = 0, now

    def resumes(self, now: float, usual: float) -> None:
        """Something goes out again; after a pause longer than the ``usual`` seconds that does not count."""
        if now - self._last > max(WINDOW, usual):
            self._window, self._start = 0, now
