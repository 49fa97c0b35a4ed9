"""What the asked peers said of a name, and when that is all. Pure; told the time (monotonic seconds)."""

from __future__ import annotations

import math
from typing import Any

import attrs

from p2pd.model import FileId, Offer, PeerId

AFTER_FIRST = 1.0
"""Offers close so long after the first one,"""
WITHOUT = 5.0
"""or so long without one; a holder that hashes is waited for while it makes progress within this."""
HASHING_GRACE = 60.0
HASHING_PACE = 1_000_000
"""Where others offer the file, who hashes it is waited for no longer than a minute and at this many
bytes per second: progress is only what he says."""


@attrs.define
class _Answer:
    name: str
    state: str = "asked"  # asked, have, not have, hashing, unreachable
    offer: Offer | None = None
    done: int = -1
    progress: float = 0.0
    since: float | None = None  # when it said first that it hashes
    refusal: str | None = None


class Offers:
    """The answers to one `req`. ``holders`` are peer ids."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._first: float | None = None
        self._answers: dict[PeerId, _Answer] = {}
        self._closed = False
        self.roster_known = False
        """Set once it is known who is there to be asked."""
        self.unasked = False
        """True while there are more of them than were asked so far, and they will be."""

    def to_be_asked(self, more: bool, now: float) -> None:
        """Those of this moment were asked; ``more``: others will be. The last ones have their time, too."""
        if more or self.unasked:
            self._began = now
        self.unasked = more

    def asked(self, peer: PeerId, name: str, now: float) -> None:
        """A peer is being asked (again): its earlier answer is void."""
        self._answers[peer] = _Answer(name, progress=now)

    def have(self, peer: PeerId, offer: Offer, now: float, *, wanted: bool = True) -> None:
        """`have`; not ``wanted`` where it is of another content than the one asked for."""
        answer = self._answers.setdefault(peer, _Answer("?"))
        answer.state, answer.offer = "have", offer
        if self._first is None and wanted:
            self._first = now

    def not_have(self, peer: PeerId) -> None:
        """`not have`."""
        if peer in self._answers:
            self._answers[peer].state = "not have"

    def unreachable(self, peer: PeerId, refusal: str | None = None) -> None:
        """It could not be asked, or went before it answered; ``refusal``: what it said instead."""
        answer = self._answers.get(peer)
        if answer is not None and answer.state in ("asked", "hashing"):
            answer.state, answer.refusal = "unreachable", refusal

    def hashing(self, peer: PeerId, done: int, now: float) -> None:
        """It hashes the file: ``done`` bytes so far."""
        answer = self._answers.get(peer)
        if answer is not None and answer.state in ("asked", "hashing"):
            answer.state = "hashing"
            if answer.since is None:
                answer.since = now
            if done > answer.done:
                answer.done, answer.progress = done, now

    def reoffering(self, peer: PeerId, now: float) -> None:
        """It was asked again with our piece size: its offer of before says nothing."""
        answer = self._answers[peer]
        answer.state, answer.offer, answer.done, answer.progress = "hashing", None, -1, now
        answer.since = None

    @property
    def unheard(self) -> str:
        """Who may have it all the same, for a sentence: " (1 of 3 peers could not be reached)"; or empty."""
        states = [answer.state for answer in self._answers.values()]
        silent = states.count("asked") + states.count("hashing")
        parts = []
        if states.count("unreachable"):
            parts.append(f"{states.count('unreachable')} of {len(states)} peers could not be reached")
        if silent:
            parts.append(f"{silent} of {len(states)} did not answer in time")
        if not self.roster_known:
            parts.append("the manager has not told who is here")
        return f" ({', '.join(parts)})" if parts else ""

    @property
    def refusals(self) -> list[str]:
        """What those said who refused to be asked."""
        return [answer.refusal for answer in self._answers.values() if answer.refusal is not None]

    def reopen(self, now: float) -> None:
        """Nobody had it when they closed, and now somebody has: they close anew."""
        self._closed, self._began, self._first = False, now, None

    @property
    def hashing_somewhere(self) -> bool:
        """True while a holder hashes the file."""
        return any(answer.state == "hashing" for answer in self._answers.values())

    def closed(self, now: float) -> bool:
        """True once offers are closed; stays so."""
        if not self._closed:
            self._closed = self._all_said(now)
        return self._closed

    def _all_said(self, now: float) -> bool:
        longest = self._longest_hashing()
        waiting = [
            a
            for a in self._answers.values()
            if a.state == "hashing"
            and now - a.progress < WITHOUT
            and (a.since is None or now - a.since < longest)
        ]
        asked = [a for a in self._answers.values() if a.state == "asked"]
        if self.roster_known and not waiting and not asked and not self.unasked:
            return True
        if self._first is not None:
            # Who hashes it (anew, at our piece size) is waited for: it may be another content.
            return now - self._first >= AFTER_FIRST and not waiting
        return now - self._began >= WITHOUT and not waiting

    def _longest_hashing(self) -> float:
        """Seconds that hashing may take of a holder who is not to keep a file from its name for ever.

        Where nobody else has offered the file there is nothing to be kept from. The smallest size
        counts: a claimed one of exabytes would be as good as for ever.
        """
        sizes = [a.offer.size for a in self._answers.values() if a.offer is not None]
        return HASHING_GRACE + min(sizes) / HASHING_PACE if sizes else math.inf

    def by_id(self) -> dict[FileId, list[tuple[PeerId, str, Offer]]]:
        """The standing offers, grouped by content."""
        groups: dict[FileId, list[tuple[PeerId, str, Offer]]] = {}
        for peer, answer in self._answers.items():
            if answer.state == "have" and answer.offer is not None:
                groups.setdefault(answer.offer.file_id, []).append((peer, answer.name, answer.offer))
        return groups

    def variants(self) -> list[dict[str, Any]]:
        """What a conflict lists: ``{id, size, holders}``, most holders first."""
        rows = [
            {"id": file_id, "size": group[0][2].size, "holders": sorted(name for _, name, _ in group)}
            for file_id, group in self.by_id().items()
        ]
        return sorted(rows, key=lambda row: (-len(row["holders"]), row["id"]))
