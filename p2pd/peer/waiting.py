"""Clients that wait for a transfer: told of its progress, then its end, or why they wait in vain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from p2pd.errors import P2PError
from p2pd.peer.intake import Intake
from p2pd.portable import unportable

PROGRESS_EVERY = 0.2
PROGRESS_EACH = 0.02
PROGRESS_MOST = 1.0
"""Seconds at least, for each source, as an event names all of them, and at most."""
QUIET = 2.0
"""Seconds without a byte after which the rate is none: what is left of a mean says nothing then."""

Emit = Callable[[dict[str, Any]], None]


@attrs.define(eq=False)
class Waiter:
    """One client. ``timeout``: seconds without a source, from ``since`` on, that it bears.

    ``outcome`` fires with the keys of `done`, or fails with a P2PError.
    """

    emit: Emit
    timeout: float
    since: float
    outcome: Deferred[dict[str, Any]]
    sources: list[dict[str, Any]] | None = None
    """As it was told them."""


class Waiters:
    """All clients that wait for one transfer."""

    def __init__(self) -> None:
        self._all: list[Waiter] = []
        self._outcome: P2PError | dict[str, Any] | None = None
        self._looked = self._told = float("-inf")
        self._rate = 0.0
        self._measured: tuple[float, int] | None = None
        self._moved = 0.0

    def add(self, emit: Emit, timeout: float, now: float) -> Waiter:
        """A client begins to wait."""
        waiter = Waiter(emit, timeout, now, Deferred())
        self._all.append(waiter)
        if self._outcome is not None:
            self._release(waiter, self._outcome)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """It waits no longer."""
        if waiter in self._all:
            self._all.remove(waiter)

    def release(self, outcome: P2PError | dict[str, Any]) -> None:
        """Everybody is told the outcome."""
        for waiter in list(self._all):
            self._release(waiter, outcome)

    def end(self, outcome: P2PError | dict[str, Any]) -> None:
        """The transfer ended so: everybody is told, also who comes later."""
        self._outcome = outcome
        self.release(outcome)

    def release_late(self, sourceless: float, now: float, error: Callable[[], P2PError]) -> None:
        """Those are released whose time without a source, since ``sourceless``, is over."""
        for waiter in list(self._all):
            if now - max(waiter.since, sourceless) >= waiter.timeout:
                self._release(waiter, error())

    def _release(self, waiter: Waiter, outcome: P2PError | dict[str, Any]) -> None:
        self._all.remove(waiter)
        if isinstance(outcome, P2PError):
            waiter.outcome.errback(outcome)
        else:
            waiter.outcome.callback(outcome)

    def progress(self, intake: Intake, now: float) -> None:
        """Tell everybody how far it is, at most 5 times a second."""
        if not self._all or now - self._looked < PROGRESS_EVERY:
            return
        self._looked = now
        sources = [{"name": info.name, "host": info.host, "port": info.port} for info in intake.infos()]
        for waiter in list(self._all):
            if sources != (waiter.sources or []):
                waiter.sources = sources
                waiter.emit({"event": "sources", "sources": sources})
        if now - self._told < min(PROGRESS_EACH * len(sources), PROGRESS_MOST):
            return
        self._told = now
        self._tell(
            {
                "event": "progress",
                "bytes": intake.transfer.bytes_held,
                "size": intake.manifest.size,
                "rate": round(self._rate),
                "sources": [source.to_json() for source in intake.sources()],
            }
        )

    def note_name(self, name: str) -> None:
        """Tell everybody where ``name``, which the file gets, is one that other systems do not take."""
        why = unportable(name)
        if why is not None:
            self._tell({"event": "note", "message": f"Windows does not take this name: {why}"})

    def measure(self, held: int, now: float) -> float:
        """The rate in bytes per second, over about the last second; ``held``: verified bytes."""
        if self._measured is None:
            self._measured, self._moved = (now, held), now
        then, before = self._measured
        if now - then >= 0.2:
            sample = max(held - before, 0) / (now - then)
            self._rate += (sample - self._rate) * (0.4 if self._rate else 1.0)
            if sample:
                self._moved = now
            elif now - self._moved >= QUIET:
                self._rate = 0.0
            self._measured = (now, held)
        return self._rate

    @property
    def rate(self) -> float:
        """As measured last."""
        return self._rate

    def _tell(self, event: dict[str, Any]) -> None:
        for waiter in list(self._all):
            waiter.emit(event)


async def fired(deferred: Deferred[None]) -> None:
    """Wait for one that others wait for too."""
    if not deferred.called:
        mine: Deferred[None] = Deferred()
        deferred.chainDeferred(mine)
        await mine
