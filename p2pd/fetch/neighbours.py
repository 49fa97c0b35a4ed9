"""With whom to be in touch on a file, of many who are on it. Pure; told what happens and when.

Up to :data:`ALL_BELOW` peers all talk to all. Of more each has about :data:`WANTED` at random: it
chooses half of them, because as many choose it, and after a moment those that are missing still.
So all have about as many: who had half of the others' number would be done last, by far. One that
is of no use is left for another.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import TypeVar

from p2pd.model import is_peer_id

ALL_BELOW = 50
WANTED = 20
FIRST = WANTED // 2
"""Chosen at first: the others come by themselves."""
MOST = 4 * WANTED
"""Who asks us is asked, too, up to so many in all."""
SETTLED = 1.0
"""Seconds after which those that did not come are chosen as well."""
SWAP = 1.0
"""Seconds between one that is left and the next: where nobody has anything new, nobody is of use."""
PATIENCE = 1.0
"""Seconds for those who seek it themselves to find some, until others are asked."""

Key = TypeVar("Key", bound=int | str)


def calls_first(mine: str, other: str) -> bool:
    """Who of two peers dials, where both are about to: true for one of them, and of many others for half.

    Given their ids; whoever has none that is known is dialled.
    """
    if not (is_peer_id(mine) and is_peer_id(other)):
        return True
    odd = (int(mine[-1], 16) ^ int(other[-1], 16)) & 1
    return (mine < other) != bool(odd)


class Neighbours:
    """``seed``: a different one for each peer. Times are seconds of any monotonic clock."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._tried: set[int | str] = set()
        self._began: float | None = None
        self._sought_at = float("-inf")
        self._left_at = float("-inf")

    def choose(self, known: Collection[Key], met: Collection[Key], now: float, asked: int = 0) -> list[Key]:
        """Whom to get in touch with now, of all that are ``known``, besides those that are ``met``.

        ``asked``: how many were chosen before and have not answered yet.
        """
        if len(known) <= ALL_BELOW:
            return [key for key in known if key not in met]
        return self._some(known, met, self._number(now) - len(met) - asked)

    def seek(
        self, known: Collection[Key], asked: Collection[Key], now: float, pending: int, *, may_come: bool
    ) -> list[Key]:  # fmt: skip
        """Whom to ask besides those that were, of whom nobody has any: in the end it is everybody.

        ``pending``: how many have not answered yet; ``may_come``: some seek it themselves.
        """
        if len(known) <= ALL_BELOW:
            return [key for key in known if key not in asked]
        if may_come and now - self._sought_at < PATIENCE:
            return []
        self._sought_at = now
        return self._some(known, asked, self._number(now) - pending)

    def _number(self, now: float) -> int:
        if self._began is None:
            self._began = now
        return WANTED if now - self._began >= SETTLED else FIRST

    def _some(self, known: Collection[Key], met: Collection[Key], missing: int) -> list[Key]:
        if missing <= 0:
            return []
        strangers = [key for key in known if key not in met]
        fresh = [key for key in strangers if key not in self._tried]
        if not fresh:
            self._tried.clear()
            fresh = strangers
        chosen = self._random.sample(sorted(fresh), min(missing, len(fresh)))
        self._tried.update(chosen)
        return chosen

    def welcome(self, met: Collection[Key]) -> bool:
        """Whether to ask somebody who asks us, while in touch with these."""
        return len(met) < MOST

    def leave(self, known: Collection[Key], useless: Collection[Key], now: float) -> Key | None:
        """Which of those that are of no use to leave now, for one that :meth:`choose` then gives; or None."""
        if not useless or len(known) <= ALL_BELOW or now - self._left_at < SWAP:
            return None
        left = self._random.choice(sorted(useless))
        self._tried.add(left)
        self._left_at = now
        return left
