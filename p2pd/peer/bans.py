"""Peers that sent wrong data for one transfer: for how long each is not used for it. Pure; told the time.

Often it is not the peer that is bad but the way to it: memory, a cable, a box in between. So a ban
ends. The next one is twice as long, and after each the peer is used with care, until it sent a right
piece: :class:`~p2pd.fetch.transfer.Transfer` gives it one piece at a time.
"""

from __future__ import annotations

import attrs

from p2pd.model import PeerId, PeerInfo

FIRST = 60.0
"""Seconds of the first ban; each further one is twice as long,"""
LONGEST = 3600.0
"""up to this (or the first one, where that was chosen longer)."""


@attrs.define
class _Ban:
    info: PeerInfo
    until: float
    count: int = 1
    over: bool = False
    careful: bool = True


class Bans:
    """One transfer's. ``first``: seconds of the first ban. Times are seconds of any monotonic clock."""

    def __init__(self, first: float = FIRST) -> None:
        self.first = first
        self._bans: dict[PeerId, _Ban] = {}

    @property
    def any_ever(self) -> bool:
        """True once somebody was banned."""
        return bool(self._bans)

    def ban(self, info: PeerInfo, now: float) -> float:
        """It sent wrong data; gives the seconds for which it is not used. No longer where it is banned."""
        ban = self._bans.get(info.id)
        if ban is None:
            ban = self._bans[info.id] = _Ban(info, now + self.first)
        elif ban.over:
            ban.count += 1
            # Not doubled without end: a float overflows after a thousand times.
            length = min(self.first * 2.0 ** min(ban.count - 1, 32), max(LONGEST, self.first))
            ban.info, ban.until, ban.over, ban.careful = info, now + length, False, True
        return ban.until - now

    def stands(self, peer: PeerId, now: float) -> bool:
        """True while it is not to be used."""
        ban = self._bans.get(peer)
        return ban is not None and now < ban.until

    def careful(self, peer: PeerId) -> bool:
        """True where it was banned and has sent nothing right since."""
        ban = self._bans.get(peer)
        return ban is not None and ban.careful

    def trust(self, peer: PeerId) -> None:
        """It sent a right piece after its ban."""
        ban = self._bans.get(peer)
        if ban is not None and ban.over:
            ban.careful = False

    def ended(self, now: float) -> list[PeerInfo]:
        """Those whose ban ended since this was asked last."""
        found = [ban for ban in self._bans.values() if not ban.over and now >= ban.until]
        for ban in found:
            ban.over = True
        return [ban.info for ban in found]

    def standing(self, now: float) -> list[tuple[PeerInfo, float]]:
        """Who is banned, and for how many more seconds, soonest free first."""
        found = [(ban.info, ban.until - now) for ban in self._bans.values() if now < ban.until]
        return sorted(found, key=lambda each: each[1])
