"""Of lines of one kind only so many are logged: what a hostile peer can cause must not fill a disk. Pure."""

from __future__ import annotations

import attrs

RARE = (300.0, 5.0)
"""Lines of one kind at once, and per second in the long run;"""
OFTEN = (3000.0, 200.0)
"""of those kinds that there is one of for each piece or file."""
REPORT_EVERY = 2.0
"""Seconds between two reports of how many were suppressed."""


@attrs.define(eq=False)
class _Kind:
    left: float
    then: float
    suppressed: int = 0


class Limiter:
    """A bucket for each kind. Kinds are format strings of the program's own, so there are few."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self.any_suppressed = False
        """True where :meth:`report` has something to say."""

    def allows(self, kind: str, often: bool, now: float) -> bool:
        """True where this line may be logged; else it is counted. ``now``: seconds of any monotonic clock."""
        burst, rate = OFTEN if often else RARE
        bucket = self._kinds.get(kind)
        if bucket is None:
            bucket = self._kinds[kind] = _Kind(burst, now)
        bucket.left = min(burst, bucket.left + (now - bucket.then) * rate)
        bucket.then = now
        if bucket.left < 1:
            bucket.suppressed += 1
            self.any_suppressed = True
            return False
        bucket.left -= 1
        return True

    def report(self) -> list[tuple[str, int]]:
        """How many of which kind were suppressed since the last report."""
        found = [(kind, bucket.suppressed) for kind, bucket in self._kinds.items() if bucket.suppressed]
        for bucket in self._kinds.values():
            bucket.suppressed = 0
        self.any_suppressed = False
        return found
