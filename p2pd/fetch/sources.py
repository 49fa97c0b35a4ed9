"""What a transfer knows of those it fetches from. Pure; times are monotonic seconds."""

from __future__ import annotations

import attrs

from p2pd.fetch.picker import Run, SourceKey

MOST_GETS = 6
"""Grants of one source that are used at once, though it gives more: each may hold memory."""
FORGIVEN = 2
"""Times that a source may fail a request, one after the other, before it rests."""
REST = 1.0
LONGEST_REST = 10.0
"""Seconds for which it is asked for nothing then, doubled each time until a piece of its is right: who
takes requests and does not serve them is not to keep the last pieces from the others."""
USELESS = 10.0
"""One that has nothing new for this long is of no use, where there are others."""
REMEMBERED = 1000
"""Peers whose failures are counted; the one that failed longest ago is forgotten first."""


@attrs.define(eq=False)
class Get:
    """What is asked of a source by one grant; of ``length`` bytes ``left`` are to come, and these pieces."""

    grant: int
    run: Run
    length: int
    left: int
    pending: set[int]
    duplicate: bool
    asked: float


@attrs.define(eq=False)
class Source:
    """What is known of a source; ``bytes`` are verified ones, ``rate`` is bytes per second, smoothed."""

    key: SourceKey
    order: str
    gets: dict[int, Get] = attrs.Factory(dict)
    bytes: int = 0
    rate: float = 0.0
    heard: float = 0.0
    news: float = 0.0
    """When it sent or announced something, or came."""
    idle: bool = True  # it has no `want` of ours
    stalled: bool = False
    spare: bool = False  # others pass on what it gave them: it is to give each piece once
    sparing: bool = False  # it was told so
    careful: bool = False  # it sent something wrong before: one piece at a time
    proved: bool = False  # a piece of its was right
    whole: bool = False  # it had all pieces when one of its came
    writing: int = 0  # right pieces of its that are not yet written
    spurned: int = 0
    """Pieces for which it gave grants that were declined: it gives none before it is told `want` again."""
    put_off: bool = False  # a grant of its was put off: it is to be told `want` again
    resting: bool = False  # it failed too often: asked for nothing for a while
    aside: bool = False  # asked for nothing for a moment, to see what the others do then
    _window: int = 0
    _window_start: float = 0.0

    @property
    def full(self) -> bool:
        """True where no more may be asked of it at once."""
        return len(self.gets) >= (1 if self.careful else MOST_GETS)

    def useless(self, now: float) -> bool:
        """True where it had nothing new for long, and nothing is asked of it."""
        return now - self.news > USELESS and not self.gets

    def measure(self, count: int, now: float) -> None:
        """Count received bytes into the rate (mean of about the last second)."""
        self._window += count
        span = now - self._window_start
        if span >= 0.05:
            sample = self._window / span
            weight = min(1.0, span)
            self.rate = sample if not self.rate else self.rate + (sample - self.rate) * max(weight, 0.2)
            self._window = 0
            self._window_start = now

    def restart_window(self, now: float) -> None:
        """The source was idle: do not count the pause."""
        self._window = 0
        self._window_start = now


class Failures:
    """How often peers failed what was asked of them, without a right piece in between.

    By peer and not by conversation: to leave and to come back makes nobody trusted.
    """

    def __init__(self) -> None:
        self._times: dict[str, tuple[int, float]] = {}

    def failed(self, order: str, now: float) -> None:
        """That peer failed once more."""
        times = self._times.pop(order, (0, 0.0))[0] + 1
        rest = 0.0 if times <= FORGIVEN else min(REST * 2.0 ** min(times - FORGIVEN - 1, 10), LONGEST_REST)
        self._times[order] = times, now + rest
        if len(self._times) > REMEMBERED:
            del self._times[next(iter(self._times))]

    def rests_until(self, order: str) -> float:
        """When that peer may be asked again; in the past where it need not rest."""
        return self._times.get(order, (0, 0.0))[1]

    def served(self, order: str) -> None:
        """A piece of its was right."""
        self._times.pop(order, None)
