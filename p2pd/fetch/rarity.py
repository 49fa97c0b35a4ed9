"""How often each piece was counted, and which of some pieces were counted least. Pure.

The counts of all pieces stand across a few numbers: bit p of the i-th one is the i-th binary digit
of the count of piece p (see :func:`p2pd.pieces.mask_of`). So to count, and to ask, is a few
operations on whole numbers, as many as the largest count has digits; no list of pieces is walked.
"""

from __future__ import annotations


class Rarity:
    """Counts of the pieces [0, ``count``), all 0 at first."""

    def __init__(self, count: int) -> None:
        self._all = (1 << count) - 1
        self._digits: list[int] = []  # the lowest one first

    def add(self, mask: int) -> None:
        """The pieces of ``mask`` are there once more."""
        mask &= self._all
        digits = self._digits
        for place, digit in enumerate(digits):
            if not mask:
                return
            digits[place] = digit ^ mask
            mask &= digit  # carried
        if mask:
            digits.append(mask)

    def remove(self, mask: int) -> None:
        """The pieces of ``mask`` are there once less; 0 stays 0."""
        digits = self._digits
        mask &= ~self.at_most(0)
        for place, digit in enumerate(digits):
            if not mask:
                break
            digits[place] = digit ^ mask
            mask &= ~digit  # borrowed
        while digits and not digits[-1]:
            digits.pop()

    def rarest(self, among: int) -> int:
        """Those of ``among`` with the lowest count; 0 where there are none."""
        for digit in reversed(self._digits):
            among = among & ~digit or among
        return among

    def at_most(self, count: int) -> int:
        """The pieces that are there ``count`` times or less."""
        if count >> len(self._digits):
            return self._all
        less, equal = 0, self._all
        for place in range(len(self._digits) - 1, -1, -1):
            digit = self._digits[place]
            if count >> place & 1:
                less |= equal & ~digit
                equal &= digit
            else:
                equal &= ~digit
        return less | equal

    def count(self, piece: int) -> int:
        """How often ``piece`` is there."""
        return sum((digit >> piece & 1) << place for place, digit in enumerate(self._digits))
