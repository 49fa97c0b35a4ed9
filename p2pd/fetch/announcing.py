"""Who is to be told when of which pieces: a message for each piece would cost more than it tells. Pure.

Whoever is sent something anyway hears of what is new at the same time, which costs no wake-up;
all others a moment later, of several pieces at once.
"""

from __future__ import annotations

from collections.abc import Collection

GATHER = 0.1
"""Seconds for which announcements are gathered at least."""
EACH = 0.01
"""Seconds more or less for each who is told: so many announcements come to everybody in that time."""
MOST = 1.0
"""Seconds for which they are gathered at most."""

ListenerKey = object


class Announcing:
    """One file's pieces, as far as each of those who listen knows of them."""

    def __init__(self) -> None:
        self._told: dict[ListenerKey, int] = {}
        self._due = False
        self._last = float("-inf")

    def gained(self, now: float) -> float | None:
        """A piece is held. The seconds after which :meth:`due` is due; None where that was said already."""
        if self._due:
            return None
        self._due = True
        gather = min(max(GATHER, EACH * len(self._told)), MOST)
        return max(self._last + gather - now, 0.0)

    def due(self, listeners: Collection[ListenerKey], now: float) -> None:
        """All who listen are told now, by :meth:`news`; whoever is not among them does no longer."""
        self._due, self._last = False, now
        for key in self._told.keys() - set(listeners):
            del self._told[key]

    def knows(self, listener: ListenerKey, held: int) -> None:
        """It was told of all of ``held`` (see :func:`p2pd.pieces.mask_of`) otherwise."""
        self._told[listener] = held

    def news(self, listener: ListenerKey, held: int) -> int:
        """Those pieces of ``held`` that it was not told of; from now on it was."""
        new = held & ~self._told.get(listener, 0)
        self._told[listener] = held
        return new
