"""With whom to be in touch on a file, of many who are on it. Pure; told what happens and when.

Up to :data:`ALL_BELOW` peers all talk to all. Of more each chooses about :data:`WANTED` at random,
which is nearly as good (docs/performance.md), and leaves one that is of no use for another.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import TypeVar

ALL_BELOW = 50
WANTED = 20

Key = TypeVar("Key", bound=int | str)


class Neighbours:
    """``seed``: a different one for each peer."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._tried: set[int | str] = set()

    def choose(self, known: Collection[Key], met: Collection[Key], asked: int = 0) -> list[Key]:
        """Whom to get in touch with now, of all that are ``known``, besides those that are ``met``.

        ``asked``: how many were chosen before and have not answered yet.
        """
        strangers = [key for key in known if key not in met]
        if len(known) <= ALL_BELOW:
            return strangers
        missing = WANTED - len(met) - asked
        if missing <= 0:
            return []
        fresh = [key for key in strangers if key not in self._tried] or strangers
        chosen = self._random.sample(sorted(fresh), min(missing, len(fresh)))
        self._tried.update(chosen)
        return chosen
