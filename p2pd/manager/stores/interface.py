"""What the manager keeps over restarts, and the interface of the places it can be kept in."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

import attrs
from zope.interface import Attribute, Interface

from p2pd.model import PeerId

MAX_RECORDS = 100_000
"""Peers remembered; the ones not seen for longest are forgotten first."""


@attrs.frozen
class PeerRecord:
    """A peer that was here: ``cookie_hash`` is its cookie's SHA-256 in hex, ``seen`` Unix time in seconds."""

    id: PeerId
    name: str
    cookie_hash: str
    seen: int


class IStore(Interface):
    """Keeps :class:`PeerRecord` by id. Nothing here raises for a storage fault: the manager serves on.

    A store that cannot keep what it was given says so in ``problem``, keeps it
    in memory, and tries again with the next :meth:`save`.
    """

    problem: str = Attribute("a sentence on what is wrong with the storage now, or empty")

    def open() -> Awaitable[None]:
        """Be ready; called once, before anything else."""

    def load() -> Awaitable[Sequence[PeerRecord]]:
        """All records, the ones seen last first, at most :data:`MAX_RECORDS`."""

    def save(records: Sequence[PeerRecord]) -> Awaitable[None]:
        """Add these, replacing those of the same id, and forget what is over :data:`MAX_RECORDS`."""

    def close() -> Awaitable[None]:
        """Release everything; what was saved stays. Nothing is called after it."""
