"""A store in memory: for a manager that nobody comes back to, and beneath the others while they fail."""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from p2pd.manager.stores.interface import MAX_RECORDS, IStore, PeerRecord
from p2pd.model import PeerId


@implementer(IStore)
class MemoryStore:
    """Keeps records until it is closed."""

    problem = ""

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self._limit = limit
        self._records: dict[PeerId, PeerRecord] = {}

    async def open(self) -> None:
        """Nothing to open."""

    async def load(self) -> Sequence[PeerRecord]:
        """See :class:`IStore`."""
        return sorted(self._records.values(), key=lambda record: record.seen, reverse=True)

    async def save(self, records: Sequence[PeerRecord]) -> None:
        """See :class:`IStore`."""
        for record in records:
            self._records[record.id] = record
        if len(self._records) > self._limit:
            newest = sorted(self._records.values(), key=lambda record: record.seen, reverse=True)
            self._records = {record.id: record for record in newest[: self._limit]}

    async def close(self) -> None:
        """Nothing to close."""
