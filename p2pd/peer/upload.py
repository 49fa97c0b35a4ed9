"""A file going out to one peer, and what was granted and named of it."""

from __future__ import annotations

import secrets

import attrs

from p2pd.fetch.picker import Run
from p2pd.model import FileId
from p2pd.peer.budgets import Budget
from p2pd.peer.stock import Copy


@attrs.define(eq=False)
class Upload:
    """A file going out to one peer; ``bytes`` sent, ``began`` and ``last`` in monotonic seconds."""

    file_id: FileId
    copy: Copy
    budget: Budget
    began: float
    last: float
    want: int = 0
    once: bool = False
    """Only what nobody was sent yet."""
    declined: bool = False
    """It had nothing to ask for just now, and may say `want` again."""
    over: bool = False
    """It has used up its budget."""
    open: dict[int, Given] = attrs.Factory(dict)
    bytes: int = 0
    rate: float = 0.0
    id: str = attrs.Factory(lambda: secrets.token_hex(6))
    """As `transfers` shows it."""
    _window: tuple[float, int] = (0.0, 0)

    @property
    def name(self) -> str:
        """The file's."""
        return self.copy.name

    @property
    def busy(self) -> bool:
        """True while something that was named is not yet sent."""
        return any(given.asked is not None for given in self.open.values())

    def count(self, sent: int, now: float) -> None:
        """``sent`` bytes more."""
        self.bytes += sent
        self.budget.spend(sent, now)
        self.last = now
        start, before = self._window
        if now - start > 1.0:
            self.rate = (self.bytes - before) / (now - start) if start else 0.0
            self._window = (now, self.bytes)


@attrs.define(eq=False)
class Given:
    """A grant: for up to ``limit`` bytes, of the pieces of ``run`` where we named some."""

    upload: Upload
    limit: int
    run: Run | None
    asked: Range | None = None


@attrs.define(eq=False)
class Range:
    """What was named by a grant: the bytes from ``at`` to ``end`` are not sent yet."""

    upload: Upload
    grant: int
    run: Run
    at: int
    end: int
