"""How fast lines are taken from one connection. Pure."""

from __future__ import annotations

from collections.abc import Callable

PER_SECOND = 10_000
"""Lines per second. Peers need some hundred; a reactor that takes all that come would do nothing else."""
AT_ONCE = 1000
"""Lines that may come at once after a quiet time."""
COUNTED = 1024
"""Bytes that a line may have before it counts as two, and so on: long ones take long to decode."""
PAUSE = 0.05
"""Seconds in which nothing is read of who was too fast: another 500 lines."""


class Pace:
    """Tells when to stop reading for :data:`PAUSE` s. ``now`` gives monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._left = AT_ONCE
        self._at = now()

    def take(self, length: int) -> bool:
        """A line of ``length`` bytes came; False: it was one too many."""
        self._left -= 1 + length // COUNTED
        if self._left > 0:
            return True
        now = self._now()
        self._left = min(AT_ONCE, self._left + int((now - self._at) * PER_SECOND))
        self._at = now
        return self._left > 0
