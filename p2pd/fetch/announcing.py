"""Who is to be told when of which pieces: a message for each piece would cost more than it tells. Pure.

Whoever is sent something anyway hears of what is new at the same time, which costs no wake-up, unless
that is little; all others a moment later, of several pieces at once.
"""

from __future__ import annotations

from collections.abc import Collection

GATHER = 0.1
"""Seconds for which announcements are gathered at least."""
EACH = 0.02
"""Seconds more or less for each who is told: so many announcements come to everybody in that time."""
USUAL_PIECE = 1024 * 1024
"""Where pieces are longer the times are shorter by as much: beside the work that such a piece makes an
announcement is nothing, and others wait for it to pass it on."""
MOST = 1.0
"""Seconds for which they are gathered at most."""
TOGETHER = 5.0
"""Once a transfer is under way they are gathered until each is of one piece for so many who are told,"""
ALONG = 0.6
"""and something else that is sent brings what is new where that is this part of what is gathered for all."""

ListenerKey = object


class Announcing:
    """One file's pieces of ``piece_size`` bytes, as far as each of those who listen knows of them."""

    def __init__(self, piece_size: int) -> None:
        self._share = min(1.0, USUAL_PIECE / piece_size)
        self._told: dict[ListenerKey, int] = {}
        self._due = False
        self._last = float("-inf")
        self._gained = 0
        self._gathered = 0  # by the time at which all were told last
        self._begun = False
        self._each = 0.0  # seconds that a piece took, of late

    def gained(self, now: float, count: int = 1, *, begun: bool = False) -> float | None:
        """More pieces are held. The seconds after which :meth:`due` is due; None where that was said already.

        ``begun``: there are many already, so who is told of this one a little later can do without.
        """
        self._gained += count
        self._begun = begun
        if self._due:
            return None
        self._due = True
        gather = max(GATHER, EACH * len(self._told))
        if begun:
            gather = max(gather, self._each * len(self._told) / TOGETHER)
        return max(self._last + min(gather, MOST) * self._share - now, 0.0)

    def due(self, listeners: Collection[ListenerKey], now: float) -> None:
        """All who listen are told now, by :meth:`news`; whoever is not among them does no longer."""
        if self._gained:
            self._each = (now - self._last) / self._gained
        self._due, self._last = False, now
        self._gathered, self._gained = self._gained, 0
        for key in self._told.keys() - set(listeners):
            del self._told[key]

    def knows(self, listener: ListenerKey, held: int) -> None:
        """It was told of all of ``held`` (see :func:`p2pd.pieces.mask_of`) otherwise."""
        self._told[listener] = held

    def news(self, listener: ListenerKey, held: int, *, along: bool = False) -> int:
        """Those pieces of ``held`` that it was not told of; from now on it was.

        ``along``: with something else that is sent. 0: none, or so few that they can wait for others.
        """
        new = held & ~self._told.get(listener, 0)
        if along and self._begun and new.bit_count() < self._gathered * ALONG:
            return 0
        self._told[listener] = held
        return new
