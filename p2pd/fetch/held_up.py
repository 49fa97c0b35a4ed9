"""What a transfer waits for, each moment of it, and how near a swarm comes to its bound. Pure; told the time.

Of each moment one cause is named, the first of these that fits:

- ``disk``: more waits to be written than may wait, so that nothing more was read; or all has come and
  not all of it is written.
- ``own_link``: the limit that this machine was given is reached.
- ``owner``: others fetch the file as well, and what is still wanted is with none of them.
- ``sources``: in a swarm, where at other times clearly more came here; else ``own_link``, where most of
  the others get clearly more than this one.
- ``own_link`` or ``sources``, where all sources are complete holders, by what a
  :class:`~p2pd.fetch.probing.Probe` found.

What is left waits for a later verdict; where there never is one, it is ``unknown``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log2

import attrs

from p2pd.fetch.probing import OwnLink, Probe
from p2pd.fetch.transfer import Transfer
from p2pd.pieces import mask_length
from p2pd.status import Bound, Cause, HeldUp

MOMENT = 0.2
"""Seconds that are looked at together."""
DISK_PART = 0.1
"""Where the disk stops reading for this part of a moment, it is what limits: the queue before it is full."""
WINDOW = 2.0
"""Seconds over which the rates of a swarm are means,"""
WINDOW_PIECES = 16
"""or so many pieces, where that takes longer: pieces come one at a time."""


@attrs.define(eq=False)
class _Peak:
    """The highest rate seen, and ``moved``: bytes in all."""

    piece_size: int
    since: float
    moved: int = 0
    best: float = 0.0
    _bytes: int = 0

    def add(self, count: int, now: float) -> None:
        self.moved += count
        self._bytes += count
        span = now - self.since
        if span >= WINDOW and self._bytes >= WINDOW_PIECES * self.piece_size:
            self.best = max(self.best, self._bytes / span)
            self._bytes, self.since = 0, now

    def pause(self, now: float) -> None:
        """The time until now does not count."""
        self._bytes, self.since = 0, now

    def seconds(self, took: float) -> float | None:
        """How long all that was moved takes at the best rate; None where none was seen."""
        return min(took, self.moved / self.best) if self.best else None


COMPARE = 3.0
"""Seconds for which what came here is compared with what came to others,"""
CLEARLY = 1.5
"""and how many times as much is clearly more."""
STEPS = 8
"""Rates are kept in so many steps for each doubling: an error of 5%."""


class Swarm:
    """What can be seen of all who fetch the same file: what came here, what the owner gave away, what
    everybody got. The owner's part is what nobody had before; others' are what they announce.
    """  # fmt: skip

    def __init__(self, transfer: Transfer, size: int, piece_size: int, now: float) -> None:
        self._transfer, self._size, self._piece_size = transfer, size, piece_size
        self._down, self._owner, self._all = (_Peak(piece_size, now) for _ in range(3))
        self._before: dict[str, int] = {}
        self._compared = now
        self._got: dict[str | None, int] = {}
        """Bytes since then: of this peer (None) and of each of the others."""
        self._open = 0.0
        """Seconds since then for which nothing else is known to have held it up; ``_never``: of pieces of
        time that were too short to compare."""
        self._never = 0.0
        self._waits: dict[tuple[int, bool], float] = {}
        """Such seconds before: by the rate then, and whether most of the others got clearly more."""
        self._held = self._seen = transfer.held.mask

    def look(self, now: float) -> None:
        """Count what came since the last time."""
        held = self._transfer.held.mask
        parts = dict(self._transfer.picker.parts())
        here = self._bytes(held & ~self._held)
        everybody, given = here, held & ~self._seen
        for peer, have in parts.items():
            if peer in self._before:
                got = self._bytes(have & ~self._before[peer])
                self._got[peer] = self._got.get(peer, 0) + got
                everybody += got
                given |= have & ~self._seen
        self._before |= parts
        self._seen |= held
        for have in parts.values():
            self._seen |= have
        self._held = held
        self._down.add(here, now)
        self._owner.add(self._bytes(given), now)
        self._all.add(everybody, now)
        self._got[None] = self._got.get(None, 0) + here
        most = max(self._got.values())
        if now - self._compared >= COMPARE and most >= WINDOW_PIECES * self._piece_size:
            mine = self._got.pop(None)
            others = sorted(self._got[peer] for peer in parts.keys() & self._got.keys())
            behind = bool(others) and others[(len(others) - 1) // 2] > CLEARLY * mine
            step = round(STEPS * log2(max(mine / (now - self._compared), 1.0)))
            self._waits[step, behind] = self._waits.get((step, behind), 0.0) + self._open
            self._restart(now)

    def waited(self, span: float) -> None:
        """For so many seconds it is not known what held it up."""
        self._open += span

    def causes(self) -> Iterator[tuple[Cause, float]]:
        """What is known by now of those seconds."""
        yield "unknown", self._open + self._never
        best = max((step for step, _ in self._waits), default=0)
        for (step, behind), span in self._waits.items():
            if best - step > STEPS * log2(CLEARLY):
                yield "sources", span
            else:
                yield "own_link" if behind else "unknown", span

    def _restart(self, now: float) -> None:
        self._compared, self._open = now, 0.0
        self._got.clear()

    def pause(self, now: float) -> None:
        """Nothing was to come until now."""
        for peak in (self._down, self._owner, self._all):
            peak.pause(now)
        self._never += self._open
        self._restart(now)

    def bound(self, took: float) -> Bound | None:
        """The estimate; None where nobody else fetched it."""
        if not self._before:
            return None
        down, owner, everybody = (each.seconds(took) for each in (self._down, self._owner, self._all))
        return Bound(down, owner, everybody, took, len(self._before) + 1)

    def _bytes(self, mask: int) -> int:
        return mask_length(mask, self._size, self._piece_size)


class Account:
    """See the module. ``size`` and ``piece_size`` in bytes, ``now`` gives monotonic seconds. A full writer
    holds it (:class:`~p2pd.share.writing.Holdable`), so that it knows for how long.
    """  # fmt: skip

    def __init__(
        self, transfer: Transfer, size: int, piece_size: int, link: OwnLink, now: Callable[[], float]
    ) -> None:
        self._transfer, self._link, self._now = transfer, link, now
        self._at = self._began = now()
        self._probe = Probe(transfer, piece_size, link, self._at)
        self._swarm = Swarm(transfer, size, piece_size, self._at)
        self._seconds: dict[Cause, float] = {}
        self._open = 0.0
        """Seconds of waiting for a link, of which a probe may still say for which."""
        self._probed = 0
        self._stopped: float | None = None
        """Since when the disk lets nothing be read."""
        self._disk = 0.0
        self._took = 0.0
        self._finishing = False
        self._bound: Bound | None = None

    # What the writer tells

    def hold(self, why: str) -> None:
        """Too much waits to be written: nothing is read."""
        if self._stopped is None:
            self._stopped = self._now()

    def release(self, why: str) -> None:
        """There is room again."""
        if self._stopped is not None:
            self._disk += max(0.0, self._now() - max(self._stopped, self._at))
            self._stopped = None

    # What the transfer's owner tells

    def tick(self, now: float) -> None:
        """Look at the moment that ends now; to be called every :data:`~p2pd.fetch.transfer.TICK` seconds."""
        span = now - self._at
        if span < MOMENT:
            return
        transfer = self._transfer
        if self._finishing:
            self._count("disk", span)
        elif transfer.paused or transfer.done or not transfer.sources:
            self._probe.stop(now)
            self._swarm.pause(now)
        else:
            self._took += span
            self._swarm.look(now)
            self._moment(span, now)
        self._at, self._disk = now, 0.0

    def finishing(self, now: float) -> None:
        """All is verified; from now on it is brought to the disk, and gets its name."""
        self._took += now - self._at
        self._swarm.look(now)
        self._bound = self._swarm.bound(self._took)
        self._at, self._finishing = now, True

    def ended(self, now: float) -> None:
        """It has its name, or will have none."""
        if self._finishing:
            self._count("disk", now - self._at)
            self._finishing = False
        self._probe.stop(now)

    def _moment(self, span: float, now: float) -> None:
        transfer = self._transfer
        disk = self._disk
        if self._stopped is not None:
            disk += now - max(self._stopped, self._at)
        cause: Cause | None = None
        if disk > DISK_PART * span or transfer.arrived:
            cause = "disk"
        elif self._link.limited():
            cause = "own_link"
        elif transfer.picker.scarce:
            cause = "owner"
        together = transfer.picker.shared
        self._probe.tick(now, cause is None and not together)
        if self._probe.done != self._probed:
            self._probed = self._probe.done
            self._settle(self._probe.verdict or "unknown")
        if cause is not None:
            self._count(cause, span)
        elif together:
            self._swarm.waited(span)
        elif self._probe.verdict is not None:
            self._count(self._probe.verdict, span)
        else:
            self._open += span

    def _settle(self, cause: Cause) -> None:
        """What waited for a verdict has this one."""
        self._count(cause, self._open)
        self._open = 0.0

    def _count(self, cause: Cause, span: float) -> None:
        self._seconds[cause] = self._seconds.get(cause, 0.0) + span

    # What is told

    @property
    def seconds(self) -> HeldUp:
        """So far."""
        found: dict[str, float] = {"unknown": self._open}
        for cause, span in (*self._seconds.items(), *self._swarm.causes()):
            found[cause] = found.get(cause, 0.0) + span
        return HeldUp(**found)

    @property
    def bound(self) -> Bound | None:
        """So far, or at the end; None where it was no swarm."""
        return self._bound or self._swarm.bound(self._took)
