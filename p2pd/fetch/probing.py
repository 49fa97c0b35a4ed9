"""Own link or the sources' links: some sources are asked for nothing for a moment. Pure; told the time.

Where several send and their sum stays what it is though one of them rests, something that they share
is full: this machine's link, or its processor. Where the others bring no more than before, it is
their own links. Neither can be told of a single source, nor from rates that are only looked at. Nor in
a swarm, where a link that one leaves free is taken by others, who then leave free some of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import attrs

from p2pd.fetch.picker import SourceKey
from p2pd.fetch.transfer import TICK, Transfer

Verdict = Literal["own_link", "sources"]

BEFORE = 1.0
"""Seconds that are looked at first; both halves of them have to be alike."""
UNSTEADY = 0.25
"""Halves that differ by more than this part are not alike."""
SETTLE = 0.25
"""Seconds that the others have to take what became free,"""
ROUND_TRIPS = 8
"""or so many round trips, where that is longer: congestion control grows by round trips."""
MEASURE = 0.5
"""Seconds for which it is measured what they bring then."""
DRAIN = 20.0
"""Seconds in which what was asked for before has to come."""
LEAST_SHARE, MOST_SHARE = 0.2, 0.52
"""Part of all that comes, which the resting ones bring: less is lost in the noise, more costs too much."""
SLOWED = 0.5
"""Part of their rate that those who rest have to lose, to be counted as resting."""
TAKEN_UP, NOT_TAKEN_UP = 0.6, 0.3
"""Part of what the resting ones brought that the others bring in addition: from the first on it is the
own link, up to the second it is the sources', in between nobody knows."""
ALIKE = 1.3
"""Who sends more than the fastest divided by this may be as fast."""
COST = 0.04
"""Part of a transfer's time that may be lost with it, if nobody takes it up."""
RESERVE = 3.0
"""Seconds for which the others must have something to do."""
FIRST = 1.0
"""Seconds of waiting for a link after which it is first looked."""
RETRY = 3.0
"""Seconds until it is tried again after it told nothing."""
AGAIN, AGAIN_AT_MOST = 20.0, 240.0
"""Seconds to the next time after a verdict; twice as many each time."""


@attrs.frozen
class Traffic:
    """What came over a connection: ``received`` bytes in all; ``latency``: seconds of a round trip without
    queues.
    """  # fmt: skip

    received: int
    latency: float


class OwnLink:
    """What all transfers of a daemon share: ``gauge`` tells what came from each source, of whatever file,
    ``limited`` whether the limit of what may come is reached; and one of them at a time makes others rest.
    """  # fmt: skip

    def __init__(self, gauge: Callable[[], Mapping[SourceKey, Traffic]], limited: Callable[[], bool]) -> None:
        self.gauge = gauge
        self.limited = limited
        self.probing: Probe | None = None


@attrs.frozen
class _Sample:
    at: float
    traffic: Mapping[SourceKey, Traffic]

    def rates(self, since: _Sample) -> dict[SourceKey, float]:
        """Bytes per second from ``since`` until now, of those who were there both times."""
        span = self.at - since.at
        return {
            key: (now.received - since.traffic[key].received) / span
            for key, now in self.traffic.items()
            if key in since.traffic
        }


class Probe:
    """The probes of one transfer; ``verdict`` by the last ones, None where they had none.

    ``piece_size`` in bytes.
    """

    def __init__(self, transfer: Transfer, piece_size: int, link: OwnLink, now: float) -> None:
        self._transfer, self._piece_size = transfer, piece_size
        self._link = link
        self._began = now
        self._next = now + FIRST
        self._pause = AGAIN
        self._phase: Callable[[float], None] | None = None
        self._since = now
        self._samples: list[_Sample] = []
        self._resting: frozenset[SourceKey] = frozenset()
        self._rested: frozenset[SourceKey] = frozenset()
        """Those of a first try, whom nobody replaced."""
        self._settle = SETTLE
        self._lost = 0.0
        self.verdict: Verdict | None = None
        self.done = 0
        """How many ended with or without a verdict."""

    def tick(self, now: float, fits: bool) -> None:
        """Go on; ``fits``: the transfer waits for a link, and for nothing else that is known."""
        if not fits or len(self._transfer.sources) < 2:
            if len(self._transfer.sources) < 2:
                self.verdict = None
            self.stop(now)
        elif self._phase is not None:
            self._phase(now)
        elif now >= self._next and self._link.probing is None:
            self._link.probing = self
            self._look(now)
            self._enter(self._before, now)

    def stop(self, now: float) -> None:
        """It does not fit any more: whoever rests is asked again."""
        if self._phase is None:
            self._next = max(self._next, now + FIRST)
        else:
            self._leave(now, RETRY)

    # Phases, one after the other

    def _before(self, now: float) -> None:
        if now - self._samples[-1].at < (BEFORE - TICK) / 2:
            return
        self._look(now)
        if len(self._samples) < 3:
            return
        first, middle, last = (sum(each.values()) for each in self._rates())
        if not last or abs(middle - first) > UNSTEADY * last:
            del self._samples[:2]
            return
        del self._samples[1]
        self._rest(now)

    def _rest(self, now: float) -> None:
        """Let some rest who did not yet."""
        rates = self._samples[1].rates(self._samples[0])
        latency = max((each.latency for each in self._samples[1].traffic.values()), default=0.0)
        self._settle = max(SETTLE, ROUND_TRIPS * latency)
        self._resting = self._choose(rates)
        if not self._resting or not (self._rested or self._affordable(rates, now)):
            self._leave(now, RETRY)
            return
        self._transfer.set_aside(self._resting, now)
        self._enter(self._drain, now)

    def _rates(self) -> tuple[dict[SourceKey, float], dict[SourceKey, float], dict[SourceKey, float]]:
        first, middle, last = self._samples
        return middle.rates(first), last.rates(middle), last.rates(first)

    def _drain(self, now: float) -> None:
        sources = self._transfer.sources
        if not self._resting <= sources.keys() or now - self._since > DRAIN:
            self._leave(now, RETRY)
        elif not any(sources[key].gets for key in self._resting):
            self._enter(self._settled, now)

    def _settled(self, now: float) -> None:
        if now - self._since > self._settle - TICK / 2:
            self._look(now)
            self._enter(self._measured, now)

    def _measured(self, now: float) -> None:
        if now - self._since < MEASURE - TICK / 2:
            return
        self._look(now)
        before, during = self._samples[1].rates(self._samples[0]), self._samples[3].rates(self._samples[2])
        busy = self._busy()
        both = before.keys() & during.keys()
        lost = sum(before[key] - during[key] for key in both & self._resting)
        gained = sum(during[key] - before[key] for key in both - self._resting)
        whole = sum(before[key] for key in self._resting & before.keys())
        verdict: Verdict | None = None
        if busy and whole and lost >= SLOWED * whole:
            part = gained / lost
            verdict = "own_link" if part >= TAKEN_UP else "sources" if part <= NOT_TAKEN_UP else None
        if verdict != "own_link":
            self._lost += whole / max(sum(before.values()), 1.0) * self._rest_time
        if verdict == "sources" and not self._rested and not self._decides(before):
            self._rested = self._resting
            del self._samples[2:]
            self._rest(now)
            return
        self.verdict = verdict
        self.done += 1
        self._leave(now, RETRY if verdict is None else self._later())

    # Inside

    def _look(self, now: float) -> None:
        self._samples.append(_Sample(now, self._link.gauge()))

    def _enter(self, phase: Callable[[float], None], now: float) -> None:
        self._phase, self._since = phase, now

    def _later(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, AGAIN_AT_MOST)
        return pause

    def _leave(self, now: float, pause: float) -> None:
        self._phase = None
        self._samples.clear()
        self._next = now + pause
        self._link.probing = None
        if self._resting or self._rested:
            self._resting = self._rested = frozenset()
            self._transfer.set_aside((), now)

    def _busy(self) -> bool:
        """True while everybody else has something to send: else it is not their links that say something."""
        sources = self._transfer.sources.values()
        return all(
            each.gets for each in sources if not (each.aside or each.resting or each.stalled) and each.rate
        )

    def _choose(self, rates: Mapping[SourceKey, float]) -> frozenset[SourceKey]:
        """Whom to let rest: some who together bring enough, and not too much; else nobody.

        The slower ones, where that will do: if the own link is full, it is the fastest who could do more.
        """
        transfer = self._transfer
        whole, fastest = sum(rates.values()), self._fastest(rates)
        chosen: list[SourceKey] = []
        share = 0.0
        for key in sorted(
            transfer.sources.keys() - self._rested,
            key=lambda key: (key in fastest, -rates.get(key, 0.0), str(key)),
        ):
            source = transfer.sources[key]
            part = rates.get(key, 0.0) / whole
            if source.gets and not source.careful and share + part <= MOST_SHARE:
                chosen.append(key)
                share += part
            if share >= LEAST_SHARE:
                return frozenset(chosen)
        return frozenset()

    def _fastest(self, rates: Mapping[SourceKey, float]) -> frozenset[SourceKey]:
        most = max(rates.values())
        return frozenset(key for key, rate in rates.items() if rate * ALIKE >= most)

    def _decides(self, rates: Mapping[SourceKey, float]) -> bool:
        """False where just those may have rested who could have done more: then others have to, as well."""
        return not self._resting & self._fastest(rates)

    @property
    def _rest_time(self) -> float:
        """Seconds, about, for which who rests sends nothing."""
        return self._settle + MEASURE + TICK / 2

    def _affordable(self, rates: Mapping[SourceKey, float], now: float) -> bool:
        whole = sum(rates.values())
        left = self._transfer.picker.missing * self._piece_size / whole
        times = 1 if self._decides(rates) else 2
        cost = times * sum(rates[key] for key in self._resting) / whole * self._rest_time
        return left >= RESERVE and self._lost + cost <= COST * (now - self._began + left)
