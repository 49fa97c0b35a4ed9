"""Pieces that were gained are announced together: a message for each would cost more than it tells. Pure."""

from __future__ import annotations

GATHER = 0.1
"""Seconds for which announcements are gathered at most."""


class Announcing:
    """One file's pieces that the others do not know of yet."""

    def __init__(self, gather: float = GATHER) -> None:
        self._gather = gather
        self._mask = 0
        self._last = float("-inf")

    def gained(self, piece: int, now: float) -> float | None:
        """A piece is held. The seconds after which :meth:`take` is due; None where that was said already."""
        first = not self._mask
        self._mask |= 1 << piece
        return max(self._last + self._gather - now, 0.0) if first else None

    def take(self, now: float) -> int:
        """What is to be announced now (see :func:`p2pd.pieces.mask_of`)."""
        mask, self._mask = self._mask, 0
        self._last = now
        return mask
