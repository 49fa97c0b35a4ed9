"""How often each piece was counted, and which of some pieces were counted least. Pure.

Kept as one number per count whose bits are pieces (see :func:`p2pd.pieces.mask_of`): every
question is a few operations on whole numbers, and no list of pieces is ever walked.
"""

from __future__ import annotations


class Rarity:
    """Counts of the pieces [0, ``count``), all 0 at first."""

    def __init__(self, count: int) -> None:
        self._levels = [(1 << count) - 1]

    def add(self, mask: int) -> None:
        """The pieces of ``mask`` are there once more."""
        levels = self._levels
        for level in range(len(levels) - 1, -1, -1):
            moved = levels[level] & mask
            if moved:
                if level + 1 == len(levels):
                    levels.append(0)
                levels[level] ^= moved
                levels[level + 1] |= moved
                mask ^= moved
                if not mask:
                    return

    def remove(self, mask: int) -> None:
        """The pieces of ``mask`` are there once less; 0 stays 0."""
        levels = self._levels
        mask &= ~levels[0]
        for level in range(1, len(levels)):
            moved = levels[level] & mask
            if moved:
                levels[level] ^= moved
                levels[level - 1] |= moved
                mask ^= moved
                if not mask:
                    break
        while len(levels) > 1 and not levels[-1]:
            levels.pop()

    def rarest(self, among: int) -> int:
        """Those of ``among`` with the lowest count; 0 where there are none."""
        if among:
            for level in self._levels:
                found = level & among
                if found:
                    return found
        return 0

    def at_most(self, count: int) -> int:
        """The pieces that are there ``count`` times or less."""
        mask = 0
        for level in self._levels[: count + 1]:
            mask |= level
        return mask

    def count(self, piece: int) -> int:
        """How often ``piece`` is there."""
        return next(count for count, level in enumerate(self._levels) if level >> piece & 1)
