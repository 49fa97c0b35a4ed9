"""A simulated network: a clock, and machines whose links pass frames on, one after the other.

A frame leaves its machine when the link is free, flows taking turns, and has arrived when the
other's link has taken it. A flow has few frames under way: then it waits for the other side, as
TCP does. Messages take the latency and no bandwidth; what all bytes on a wire cost beyond the
file's is one constant.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

FRAMING = 1.055
"""Bytes on the wire for each byte of a file: Ethernet, IP and TCP, and acknowledgements."""
LATENCY = 0.001
"""Seconds that a message takes."""
UNDER_WAY = 2
"""Frames of one flow that have left and not arrived."""


class Clock:
    """Simulated seconds, and what is to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def later(self, seconds: float, work: Callable[..., None], *args: Any) -> None:
        """Call ``work`` after so many seconds."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), work, args))

    def run(self, until: Callable[[], bool]) -> None:
        """Until that is so, or nothing is left to happen."""
        events = self._events
        while events and not until():
            self.now, _, work, args = heapq.heappop(events)
            work(*args)


@attrs.define(eq=False)
class Flow:
    """Bytes on their way from one machine to another; ``ended`` is called when all have arrived."""

    there: Link
    left: int
    frame: int
    moved: Callable[[int], None]
    ended: Callable[[], None]
    sent: Callable[[int], None]
    under_way: int = 0
    dropped: bool = False


class Link:
    """One machine's connection: ``up`` and ``down`` in bytes of files per second."""

    def __init__(self, clock: Clock, up: float, down: float) -> None:
        self._clock = clock
        self.up, self.down = up, down
        self._flows: deque[Flow] = deque()
        self._busy = False
        self._down_free = 0.0
        self.sent = 0

    def send(self, flow: Flow) -> None:
        """Begin."""
        self._flows.append(flow)
        self._next()

    def drop(self, flow: Flow) -> None:
        """Send no more of it."""
        flow.dropped = True
        if flow in self._flows:
            self._flows.remove(flow)

    def _next(self) -> None:
        if self._busy:
            return
        for _ in range(len(self._flows)):
            flow = self._flows[0]
            self._flows.rotate(-1)
            if flow.under_way < UNDER_WAY:
                length = min(flow.frame, flow.left)
                flow.left -= length
                flow.under_way += 1
                if not flow.left:
                    self._flows.remove(flow)
                self._busy = True
                self._clock.later(length / self.up, self._departed, flow, length)
                return

    def _departed(self, flow: Flow, length: int) -> None:
        self._busy = False
        self.sent += length
        flow.sent(length)
        there, now = flow.there, self._clock.now
        # It came in while it went out: it is there when it is out, or when what was before it is in.
        arrives = max(now, there._down_free + length / there.down)
        there._down_free = arrives
        self._clock.later(arrives - now, self._arrived, flow, length)
        self._next()

    def _arrived(self, flow: Flow, length: int) -> None:
        flow.under_way -= 1
        if not flow.dropped:
            flow.moved(length)
            if not flow.left and not flow.under_way:
                flow.ended()
        self._next()
