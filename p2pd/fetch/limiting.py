"""At most so many bytes per second, smoothly. Pure; told the time in monotonic seconds."""

from __future__ import annotations

SMOOTH = 0.05
"""Seconds of the rate that may go at once; what was not used before that is lost."""
LEAST = 4096
"""Bytes that go at once at least, however low the rate."""


class Allowance:
    """``rate`` in bytes per second; None: without limit. What goes is counted by :meth:`spend`."""

    def __init__(self) -> None:
        self.rate: int | None = None
        self._paid_until = 0.0

    def wait(self, now: float) -> float:
        """Seconds until more may go; 0: it may now."""
        return max(0.0, self._paid_until - now) if self.rate is not None else 0.0

    def step(self) -> int:
        """Bytes that may go at once, where there is a limit."""
        assert self.rate is not None
        return max(LEAST, int(self.rate * SMOOTH))

    def spend(self, count: int, now: float) -> None:
        """``count`` bytes went."""
        if self.rate is not None:
            # Time is what is paid with: each byte takes the next 1/rate s.
            self._paid_until = max(self._paid_until, now - SMOOTH) + count / self.rate

    def change(self, rate: int | None, now: float) -> None:
        """Another rate from now on; ValueError for none that is positive."""
        if rate is not None and rate <= 0:
            raise ValueError(f"a rate of {rate} bytes per second")
        self.rate = rate
        self._paid_until = min(self._paid_until, now)
