"""How much of a file one peer is sent, so that asking for it for ever keeps nobody else waiting. Pure."""

from __future__ import annotations

from collections import OrderedDict

import attrs

from p2pd.model import FileId, PeerId

BASE = 64 * 1024 * 1024
TIMES = 32
"""A peer may be sent a file so many times, and BASE bytes, before it has to wait."""
RECOVERS = 1800.0
"""Seconds in which a budget that is used up is whole again: the file once in less than a minute."""
KEPT = 10_000
"""Budgets remembered; the one used longest ago goes first."""


@attrs.define(eq=False)
class Budget:
    """Bytes of one file for one peer; times in monotonic seconds."""

    whole: int
    _spent: float = 0.0
    _at: float = 0.0

    def left(self, now: float) -> int:
        """Bytes that may be sent now; negative where more was sent."""
        self._spent = max(0.0, self._spent - (now - self._at) * self.whole / RECOVERS)
        self._at = now
        return self.whole - int(self._spent)

    def spend(self, count: int, now: float) -> None:
        """``count`` bytes were sent, whichever they were."""
        self.left(now)
        self._spent += count


class Budgets:
    """The budgets of all peers. They outlive connections: who comes back finds his own.

    A peer is its id at its address: nobody can use up another's by using its id.
    """

    def __init__(self) -> None:
        self._all: OrderedDict[tuple[PeerId, str, FileId], Budget] = OrderedDict()

    def of(self, peer: PeerId, host: str, file_id: FileId, size: int, now: float) -> Budget:
        """The budget of ``peer`` at ``host`` for a file of ``size`` bytes."""
        key = (peer, host, file_id)
        budget = self._all.get(key)
        if budget is None:
            if len(self._all) >= KEPT:
                self._all.popitem(last=False)
            budget = self._all[key] = Budget(BASE + TIMES * size, 0.0, now)
        self._all.move_to_end(key)
        return budget
