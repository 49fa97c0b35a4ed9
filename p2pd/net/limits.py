"""The limit of one direction of all of a daemon's connections, and who waits for it in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pd.fetch.limiting import Allowance


class Limit:
    """Bytes of files per second; see :class:`~p2pd.fetch.limiting.Allowance`.

    Who finds :meth:`exceeded` asks by :meth:`when_free` to be called, and tries again then.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._allowance = Allowance()
        self._waiting: dict[Callable[[], None], None] = {}
        self._timer: Any = None

    @property
    def rate(self) -> int | None:
        """Bytes per second; None: without limit."""
        return self._allowance.rate

    @property
    def step(self) -> int:
        """Bytes that may go at once, where there is a limit."""
        return self._allowance.step()

    def change(self, rate: int | None) -> None:
        """Another rate from now on."""
        self._allowance.change(rate, self._now())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._next()

    def spend(self, count: int) -> None:
        """``count`` bytes went."""
        self._allowance.spend(count, self._now())

    def exceeded(self) -> bool:
        """True where nothing may go now."""
        return self._allowance.wait(self._now()) > 0

    def when_free(self, call: Callable[[], None]) -> None:
        """Call once something may go, in the order of asking; twice the same is once."""
        self._waiting[call] = None
        self._next()

    def _now(self) -> float:
        return float(self._reactor.seconds())

    def _next(self) -> None:
        if self._waiting and self._timer is None:
            self._timer = self._reactor.callLater(self._allowance.wait(self._now()), self._free)

    def _free(self) -> None:
        self._timer = None
        call = next(iter(self._waiting))
        del self._waiting[call]
        call()
        self._next()
