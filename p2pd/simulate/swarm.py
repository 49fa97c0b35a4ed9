"""Machines that run the real transfer and the real granting, on a simulated network.

Nothing here chooses a piece, a source or a downloader: it carries messages.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from p2pd.fetch.announcing import Announcing
from p2pd.fetch.granting import Granting
from p2pd.fetch.picker import Run
from p2pd.fetch.transfer import TICK, Transfer
from p2pd.pieces import Bitfield, piece_length
from p2pd.simulate.network import FRAMING, LATENCY, Clock, Flow, Link

FILE = "file"


class Machine:
    """A peer on the file; ``held`` None: it holds all from the beginning."""

    def __init__(self, swarm: Swarm, number: int, up: float, down: float, *, complete: bool = False) -> None:
        self.swarm = swarm
        self.number = number
        self.clock = swarm.clock
        self.link = Link(swarm.clock, up / FRAMING, down / FRAMING)
        self.neighbours: dict[int, Machine] = {}
        self.held = Bitfield.full(swarm.count) if complete else Bitfield(swarm.count)
        self.done_at: float | None = 0.0 if complete else None
        self.granting = Granting(self)
        self.granting.offer(FILE, swarm.count, swarm.piece_size, None if complete else self.held)
        self.transfer = (
            None if complete else Transfer(swarm.size, swarm.piece_size, self.held, self, seed=str(number))
        )
        self._announcing = Announcing()
        self._grants: dict[int, tuple[Machine, Run]] = {}  # given: to whom, for what
        self._flows: dict[int, Flow] = {}
        self._gets: dict[tuple[int, int], Run] = {}
        self.dead = False

    # From and to others: messages

    def _say(self, other: Machine, what: Callable[..., None], *args: object) -> None:
        self.clock.later(LATENCY, self._hear, other, what, args)

    @staticmethod
    def _hear(other: Machine, what: Callable[..., None], args: tuple[object, ...]) -> None:
        if not other.dead:
            what(*args)

    def meet(self, other: Machine) -> None:
        """They know of each other."""
        if other is self or other.number in self.neighbours:
            return
        self.neighbours[other.number] = other
        other.neighbours[self.number] = self
        for one, two in ((self, other), (other, self)):
            if one.transfer is not None:
                one._say(two, two.asked, one)

    def asked(self, other: Machine) -> None:
        """`req`."""
        if len(self.held) or self.transfer is not None:
            self._say(other, other.offered, self, self.held.copy())

    def offered(self, other: Machine, have: Bitfield) -> None:
        """`have`."""
        if self.transfer is not None and other.number not in self.transfer.sources:
            self.transfer.add_source(other.number, f"{other.number:08}", have, self.clock.now)

    # The driver of the transfer

    def want(self, source: Any, count: int, place: int, once: bool) -> None:
        other = self.neighbours[source]
        self._say(other, other.wanted, self, count, place, once)

    def get(self, source: Any, grant: int, run: Run, duplicate: bool) -> None:
        other = self.neighbours[source]
        self._gets[source, grant] = run
        self._say(other, other.named, grant, run)

    def cancel(self, source: Any, grant: int) -> None:
        other = self.neighbours[source]
        self._gets.pop((source, grant), None)
        self._say(other, other.cancelled, grant)

    def blame(self, source: Any, piece: int) -> None:
        raise AssertionError("nobody lies here")

    def trust(self, source: Any) -> None:
        pass

    # What others say to the granting

    def wanted(self, other: Machine, count: int, place: int, once: bool) -> None:
        self.granting.offer(FILE, self.swarm.count, self.swarm.piece_size, self.held)
        self.granting.want(other.number, FILE, count, self.clock.now, place=place, once=once)

    def named(self, grant: int, run: Run) -> None:
        if grant in self._grants:
            self._grants[grant] = (self._grants[grant][0], run)
            self.granting.named(grant, run, self._length(run), self.clock.now)

    def declined(self, grant: int) -> None:
        if self._grants.pop(grant, None) is not None:
            self.granting.declined(grant, self.clock.now)

    def cancelled(self, grant: int) -> None:
        flow = self._flows.pop(grant, None)
        if flow is not None:
            self.link.drop(flow)
        if self._grants.pop(grant, None) is not None:
            self.granting.dropped(grant, self.clock.now)

    def announced(self, other: Machine, mask: int) -> None:
        self.granting.has(other.number, FILE, mask, self.clock.now)
        if self.transfer is not None and not self.transfer.done:
            self.transfer.source_has(other.number, mask, self.clock.now)

    # The driver of the granting

    def grant(self, client: Any, file: Any, grant: int, limit: int, run: Run | None) -> None:
        other = self.neighbours[client]
        self._grants[grant] = (other, Run(0, 0))
        self._say(other, other.granted, self, grant, limit, run)

    def send(self, client: Any, grant: int) -> None:
        other, run = self._grants[grant]
        length = self._length(run)
        flow = Flow(
            other.link, length, max(-(-length // 4), 1),
            lambda count: other.came(self, grant, count),
            lambda: other.finished(self, grant, run),
            lambda count: self._sent(grant, flow, count),
        )  # fmt: skip
        self._flows[grant] = flow
        self.link.send(flow)

    def _sent(self, grant: int, flow: Flow, count: int) -> None:
        self.granting.sent(count, self.clock.now)
        if not flow.left and self._flows.pop(grant, None) is not None:
            self._grants.pop(grant, None)
            self.granting.finished(grant, self.clock.now)

    # What comes

    def granted(self, other: Machine, grant: int, limit: int, run: Run | None) -> None:
        if self.transfer is None or not self.transfer.granted(
            other.number, grant, limit, self.clock.now, run
        ):
            self._say(other, other.declined, grant)

    def came(self, other: Machine, grant: int, count: int) -> None:
        if self.transfer is not None and not self.dead:
            self.transfer.progressed(other.number, grant, count, self.clock.now)

    def finished(self, other: Machine, grant: int, run: Run) -> None:
        if self.dead or self.transfer is None or self._gets.pop((other.number, grant), None) is None:
            return
        for piece in run:
            now = self.clock.now
            if self.transfer.piece_arrived(other.number, grant, piece, True, now):
                self.transfer.piece_written(piece)
                self.swarm.pieces_came(self, piece)
                self.granting.gained(FILE, now)
                due = self._announcing.gained(piece, now)
                if due is not None:
                    self.clock.later(due, self._announce)
        if self.transfer.done and self.done_at is None:
            self.done_at = self.clock.now
            self.swarm.one_done()

    def _announce(self) -> None:
        mask = self._announcing.take(self.clock.now)
        for other in self.neighbours.values():
            self._say(other, other.announced, self, mask)

    def tick(self) -> None:
        if self.dead:
            return
        if self.transfer is not None and self.done_at is None:
            self.transfer.tick(self.clock.now)
        self.granting.tick(self.clock.now)
        self.clock.later(TICK, self.tick)

    def _length(self, run: Run) -> int:
        return sum(piece_length(piece, self.swarm.size, self.swarm.piece_size) for piece in run)


class Swarm:
    """One owner and ``peers`` others, each with ``up`` and ``down`` bytes per second."""

    def __init__(
        self, *, size: int, piece_size: int, peers: int, up: float, down: float, owner_up: float,
        neighbours: int = 20, all_below: int = 50, seed: int = 1,
    ) -> None:  # fmt: skip
        self.size, self.piece_size = size, piece_size
        self.count = -(-size // piece_size)
        self.clock = Clock()
        self.left = peers
        self.random = random.Random(seed)
        self.owner = Machine(self, 0, owner_up, down, complete=True)
        self.peers = [Machine(self, number, up, down) for number in range(1, peers + 1)]
        everybody = [self.owner, *self.peers]
        for machine in everybody:
            self.clock.later(self.random.random() * TICK, machine.tick)
            others = everybody if len(everybody) <= all_below else self.random.sample(everybody, neighbours)
            for other in others:
                machine.meet(other)

    def pieces_came(self, machine: Machine, piece: int) -> None:
        pass

    def one_done(self) -> None:
        self.left -= 1

    def run(self) -> float:
        """The seconds until all have it."""
        self.clock.run(lambda: not self.left)
        return max(peer.done_at or float("inf") for peer in self.peers)
