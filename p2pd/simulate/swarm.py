"""Machines that run the real transfer and the real granting, on a simulated network.

Nothing here chooses a piece, a source or a downloader: it carries messages.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs

from p2pd.errors import P2PError
from p2pd.fetch.announcing import Announcing
from p2pd.fetch.granting import Granting
from p2pd.fetch.neighbours import Neighbours
from p2pd.fetch.picker import Run
from p2pd.fetch.runs import begun, whole_at_once
from p2pd.fetch.transfer import TICK, Transfer
from p2pd.pieces import Bitfield, piece_count, range_length
from p2pd.simulate.network import FRAMING, LATENCY, Clock, Flow, Link

FILE = "file"
FRAMES = 4
FRAME_SECONDS = 0.2
"""In so many frames a range goes out, none of them longer; others get their turn in between."""

Trace = list[tuple[float, int, int, int]]
"""Seconds, who got a piece, of whom, which."""


@attrs.frozen
class Bound:
    """No faster than this: the largest of the terms, in seconds."""

    terms: dict[str, float]

    @property
    def limited_by(self) -> str:
        """The largest one's name."""
        return max(self.terms, key=lambda name: self.terms[name])

    @property
    def seconds(self) -> float:
        """The largest one."""
        return self.terms[self.limited_by]


@attrs.frozen
class Plan:
    """One owner and ``peers`` others; rates in bytes per second, of all that is on the wire.

    ``stagger``: seconds between the starts; ``fail``: so many die when they hold half;
    ``slow``: the first peer has this rate both ways.
    """

    peers: int
    size: int
    piece_size: int
    up: float
    down: float
    owner_up: float
    stagger: float = 0.0
    fail: int = 0
    slow: float | None = None
    seed: int = 1

    @property
    def count(self) -> int:
        """How many pieces the file has."""
        return piece_count(self.size, self.piece_size)

    def start(self, peer: int) -> float:
        """When a peer (1, 2, ...) begins."""
        return (peer - 1) * self.stagger

    def rates(self, peer: int) -> tuple[float, float]:
        """Its up and down."""
        if peer == 1 and self.slow is not None:
            return self.slow, self.slow
        return self.up, self.down

    def bound(self) -> Bound:
        """The fluid bound: max(F/u_owner, F/d_min, N*F/(u_owner + sum u_i)), of those who do not die."""
        living = range(1, self.peers + 1 - self.fail)
        ups, downs = zip(*map(self.rates, living), strict=True)
        terms = {
            "owner": self.size / self.owner_up,
            "down": self.size / min(downs),
            "all": len(ups) * self.size / (self.owner_up + sum(ups)),
        }
        if self.stagger:
            terms["last"] = self.start(self.peers) + self.size / self.down
        return Bound(terms)


class Machine:
    """A peer on the file; number 0 is the owner and has all of it."""

    def __init__(self, swarm: Swarm, number: int, up: float, down: float) -> None:
        plan = swarm.plan
        self.swarm = swarm
        self.number = number
        self.clock = swarm.clock
        self.link = Link(swarm.clock, up / FRAMING, down / FRAMING)
        self.met: dict[int, Machine] = {}
        self.held = Bitfield(plan.count) if number else Bitfield.full(plan.count)
        self.done_at: float | None = None if number else 0.0
        self.granting = Granting(self, f"{plan.seed} {number}")
        self.transfer = (
            Transfer(plan.size, plan.piece_size, self.held, self, seed=f"{plan.seed} {number}")
            if number
            else None
        )
        self._choosing = Neighbours(f"{plan.seed} {number}")
        self._announcing = Announcing(plan.piece_size)
        self._grants: dict[int, tuple[Machine, Run]] = {}  # given: to whom, for what
        self._flows: dict[int, Flow] = {}
        self._gets: dict[tuple[int, int], Run] = {}
        self._asking: dict[int, None] = {}  # who has not answered yet
        self.dead = False

    def die(self) -> None:
        """It is gone, and everybody it talked to sees that."""
        self.dead = True
        for flow in self._flows.values():
            self.link.drop(flow)
        for other in self.met.values():
            self.clock.later(LATENCY, other.lost, self)

    def lost(self, other: Machine) -> None:
        """The conversation with ``other`` is over."""
        self._asking.pop(other.number, None)
        if self.met.pop(other.number, None) is None:
            return
        for key in [key for key in self._gets if key[0] == other.number]:
            del self._gets[key]
        for grant in [grant for grant, (who, _) in self._grants.items() if who is other]:
            del self._grants[grant]
            flow = self._flows.pop(grant, None)
            if flow is not None:
                self.link.drop(flow)
        self.granting.left(other.number, self.clock.now)
        if self.transfer is not None:
            self.transfer.remove_source(other.number, self.clock.now)

    # From and to others: messages

    def _say(self, other: Machine, what: Callable[..., None], *args: object) -> None:
        self.clock.later(LATENCY, self._hear, other, what, args)

    def _hear(self, other: Machine, what: Callable[..., None], args: tuple[object, ...]) -> None:
        if not (other.dead or self.dead):
            what(*args)

    def _meet(self) -> None:
        if self.transfer is None or self.transfer.done:
            return
        known, now = self.swarm.known, self.clock.now
        self.transfer.among(len(known))
        useless = [number for number in self.transfer.useless(now) if isinstance(number, int)]
        left = self._choosing.leave(known, useless, now)
        if left is not None:
            self._leave(known[left])
        for number in self._choosing.choose(known, {self.number, *self._in_touch()}, now):
            other = known[number]
            self._ask(other)
            self._say(other, other.met_by, self)

    def met_by(self, other: Machine) -> None:
        """Who is asked by somebody asks him, too."""
        if self.transfer is None or self.transfer.done:
            return
        in_touch = self._in_touch()
        if other.number not in in_touch and self._choosing.welcome(in_touch):
            self._ask(other)

    def _in_touch(self) -> set[int]:
        assert self.transfer is not None
        return {*self._asking, *(key for key in self.transfer.sources if isinstance(key, int))}

    def _ask(self, other: Machine) -> None:
        self.met[other.number], other.met[self.number] = other, self
        self._asking[other.number] = None
        self._say(other, other.asked, self)

    def _leave(self, other: Machine) -> None:
        """It is asked no more; it may go on asking."""
        assert self.transfer is not None
        for key in [key for key in self._gets if key[0] == other.number]:
            del self._gets[key]
        self.transfer.remove_source(other.number, self.clock.now)
        self._say(other, other.unwanted, self)

    def unwanted(self, other: Machine) -> None:
        """`withdraw`, and `want` of none."""
        self.granting.unwanted(other.number, FILE, self.clock.now)

    def asked(self, other: Machine) -> None:
        """`req`."""
        self._announcing.knows(other.number, self.held.mask)
        self._say(other, other.offered, self, self.held.copy())

    def offered(self, other: Machine, have: Bitfield) -> None:
        """`have`."""
        self._asking.pop(other.number, None)
        if self.transfer is None or other.number not in self.met:
            return
        if other.number not in self.transfer.sources:
            self.transfer.add_source(other.number, f"{other.number:08}", have, self.clock.now)
            self._catch_up(other)

    # The driver of the transfer

    def want(self, source: Any, count: int, place: int, once: bool) -> None:
        """Part of :class:`~p2pd.fetch.transfer.Driver`."""
        other = self.met[source]
        self._catch_up(other)
        self._say(other, other.wanted, self, count, place, once)

    def get(self, source: Any, grant: int, run: Run, duplicate: bool) -> None:
        """Part of :class:`~p2pd.fetch.transfer.Driver`."""
        other = self.met[source]
        self._gets[source, grant] = run
        self._catch_up(other)
        self._say(other, other.named, grant, run)

    def cancel(self, source: Any, grant: int) -> None:
        """Part of :class:`~p2pd.fetch.transfer.Driver`."""
        other = self.met[source]
        self._gets.pop((source, grant), None)
        self._say(other, other.cancelled, self, grant)

    def blame(self, source: Any, piece: int) -> None:
        """Part of :class:`~p2pd.fetch.transfer.Driver`."""
        raise AssertionError("nobody lies here")

    def trust(self, source: Any) -> None:
        """Part of :class:`~p2pd.fetch.transfer.Driver`."""

    # What others say to the granting

    def wanted(self, other: Machine, count: int, place: int, once: bool) -> None:
        """`want`."""
        plan = self.swarm.plan
        part, offer = self.transfer, self.granting.offer
        if part is None:
            at_once = whole_at_once(plan.count, plan.peers)
            offer(FILE, plan.count, plan.piece_size, None, at_once=at_once)
        else:
            offer(FILE, plan.count, plan.piece_size, self.held, part.first, at_once=part.long_at_once)
        self.granting.want(other.number, FILE, count, self.clock.now, place=place, once=once)

    def named(self, grant: int, run: Run) -> None:
        """`get`."""
        if grant in self._grants:
            self._grants[grant] = (self._grants[grant][0], run)
            self.granting.named(grant, run, self._length(run), self.clock.now)

    def declined(self, grant: int, later: bool) -> None:
        """`decline`."""
        if self._grants.pop(grant, None) is not None:
            self.granting.declined(grant, self.clock.now, later=later)

    def cancelled(self, other: Machine, grant: int) -> None:
        """`cancel`."""
        self._say(other, other.ended, self, grant)
        flow = self._flows.pop(grant, None)
        if flow is not None:
            self.link.drop(flow)
        if self._grants.pop(grant, None) is not None:
            self.granting.dropped(grant, self.clock.now)

    def announced(self, other: Machine, mask: int) -> None:
        """`have piece`."""
        self.granting.has(other.number, FILE, mask, self.clock.now)
        if self.transfer is not None and not self.transfer.done:
            self.transfer.source_has(other.number, mask, self.clock.now)

    # The driver of the granting

    def grant(self, client: Any, file: Any, grant: int, limit: int, run: Run | None, *, needed: bool) -> None:
        """Part of :class:`~p2pd.fetch.driver.GrantingDriver`."""
        other = self.met[client]
        self._grants[grant] = (other, Run(0, 0))
        self._catch_up(other)
        self._say(other, other.granted, self, grant, limit, run, needed)

    def send(self, client: Any, grant: int) -> None:
        """Part of :class:`~p2pd.fetch.driver.GrantingDriver`."""
        other, run = self._grants[grant]
        length = self._length(run)
        flow = Flow(
            other.link, length, max(min(-(-length // FRAMES), int(self.link.up * FRAME_SECONDS)), 1),
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

    def granted(self, other: Machine, grant: int, limit: int, run: Run | None, needed: bool) -> None:
        """`grant`."""
        transfer, now = self.transfer, self.clock.now
        later = not needed and transfer is not None and transfer.puts_off(other.number, now)
        if later or transfer is None or not transfer.granted(other.number, grant, limit, now, run):
            self._say(other, other.declined, grant, later)

    def ended(self, other: Machine, grant: int) -> None:
        """`cancelled`."""
        if self.transfer is not None and not self.transfer.done:
            self.transfer.ended(other.number, grant, self.clock.now)

    def came(self, other: Machine, grant: int, count: int) -> None:
        """`data`."""
        if self.transfer is not None and not self.dead:
            self.transfer.progressed(other.number, grant, count, self.clock.now)

    def finished(self, other: Machine, grant: int, run: Run) -> None:
        """The last `data` of a range."""
        if self.dead or self.transfer is None or self._gets.pop((other.number, grant), None) is None:
            return
        for piece in run:
            now = self.clock.now
            if self.transfer.piece_arrived(other.number, grant, piece, True, now):
                self.transfer.piece_written(piece)
                self.swarm.piece_came(self, other, piece)
                self.granting.gained(FILE, now)
                due = self._announcing.gained(now, begun=begun(self.held))
                if due is not None:
                    self.clock.later(due, self._announce)
        if self.transfer.done and self.done_at is None:
            self.done_at = self.clock.now
            self.swarm.one_done()
        elif self.number in self.swarm.doomed and len(self.held) * 2 >= self.held.count:
            self.swarm.one_dies(self)

    def _announce(self) -> None:
        self._announcing.due(self.met, self.clock.now)
        for other in self.met.values():
            self._tell(other, along=False)

    def _catch_up(self, other: Machine) -> None:
        self._tell(other, along=True)

    def _tell(self, other: Machine, *, along: bool) -> None:
        mask = self._announcing.news(other.number, self.held.mask, along=along) if self.number else 0
        if mask:
            self._say(other, other.announced, self, mask)

    def tick(self) -> None:
        """What is due, several times a second."""
        if self.dead:
            return
        self._meet()
        if self.transfer is not None and self.done_at is None:
            self.transfer.tick(self.clock.now)
        self.granting.tick(self.clock.now)
        self.clock.later(TICK, self.tick)

    def _length(self, run: Run) -> int:
        plan = self.swarm.plan
        return range_length(run.first, run.end, plan.size, plan.piece_size)


class Swarm:
    """A plan, carried out. ``trace`` is given every piece that comes."""

    def __init__(self, plan: Plan, *, trace: Trace | None = None) -> None:
        self.plan = plan
        self.clock = Clock()
        self.died = 0
        self._trace = trace
        self._left = plan.peers
        # Those with the highest numbers: the bound counts the others.
        self.doomed = set(range(plan.peers + 1 - plan.fail, plan.peers + 1))
        self.owner = Machine(self, 0, plan.owner_up, plan.down)
        self.peers = [Machine(self, number, *plan.rates(number)) for number in range(1, plan.peers + 1)]
        self.known: dict[int, Machine] = {}
        self._enter(self.owner)
        self.owner.tick()
        jitter = random.Random(plan.seed)
        for peer in self.peers:
            self.clock.later(plan.start(peer.number), self._enter, peer)
        for peer in self.peers:
            # Nobody's clock ticks with another's.
            self.clock.later(plan.start(peer.number) + jitter.random() * LATENCY, peer.tick)

    def _enter(self, machine: Machine) -> None:
        self.known[machine.number] = machine

    @property
    def owner_sent(self) -> int:
        """Bytes of the file that went out of the owner."""
        return self.owner.link.sent

    def piece_came(self, machine: Machine, source: Machine, piece: int) -> None:
        """Told by the machines."""
        if self._trace is not None:
            self._trace.append((self.clock.now, machine.number, source.number, piece))

    def one_done(self) -> None:
        """Told by the machines."""
        self._left -= 1

    def one_dies(self, machine: Machine) -> None:
        """Told by the machines."""
        del self.known[machine.number]
        self.died += 1
        self._left -= 1
        machine.die()

    def run(self) -> float:
        """The seconds until all have it who live. P2PError where that never comes."""
        self.clock.run(lambda: not self._left)
        ends = [peer.done_at for peer in self.peers if not peer.dead]
        if None in ends:
            raise P2PError("the swarm came to a standstill")
        return max(end for end in ends if end is not None)
