"""Between the rules and the connections: who is told what, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from p2pd.errors import P2PError, ProtocolError, RefusedError
from p2pd.manager.pages import ChangeLines, Pages
from p2pd.manager.registry import OWN_MACHINE, Announcement, Joined, Registry, Shown
from p2pd.manager.stores.interface import IStore, PeerRecord
from p2pd.model import PeerId, PeerInfo

log = Logger()

GATHER = 0.05
"""Seconds between two rounds of changes; the first change after a quiet time goes out at once."""
WHOLE_LIST_EVERY = 60.0
"""Seconds after which everybody gets the whole list again."""


class Member(Protocol):
    """A peer's connection, as the hub sees it."""

    blocked: bool

    @property
    def stuck(self) -> bool:
        """Too much waits for it already."""

    def send_lines(self, lines: bytes) -> None:
        """Send this."""

    def fail(self, error: P2PError) -> None:
        """Say why, and close."""

    def abort(self) -> None:
        """Close without a word."""

    def list_sent(self) -> None:
        """The whole list went out."""


@attrs.define(eq=False)
class _Seat:
    member: Member
    machine: str
    wants_list: bool = True


class Hub:
    """Keeps the members and tells them of each other.

    Members call :meth:`join`, then :meth:`heard`, :meth:`want_list` and
    :meth:`unblocked`, at last :meth:`leave`.
    ``wall`` gives Unix time in seconds, for records and the table only;
    ``table_changed`` is called when the active peers are others than before.
    """

    def __init__(
        self,
        clock: IReactorTime,
        registry: Registry,
        wall: Callable[[], float],
        table_changed: Callable[[], None],
    ) -> None:
        self.registry = registry
        self.since: dict[PeerId, float] = {}
        self._clock = clock
        self._store: IStore | None = None
        self._wall = wall
        self._table_changed = table_changed
        self._pages = Pages(registry)
        self._seats: dict[PeerId, _Seat] = {}
        self._flush_call: IDelayedCall | None = None
        self._last_flush = -GATHER
        self._unsaved: dict[PeerId, PeerRecord] = {}
        self._saving = False
        self._saved: list[Deferred[None]] = []
        self._loops: list[LoopingCall] = []

    def start(self) -> None:
        """Leases lapse and lists are repeated from now on."""
        for work, seconds in (
            (self._expire, min(1.0, self.registry.lease / 4)),
            (self._repeat, WHOLE_LIST_EVERY),
        ):
            loop = LoopingCall(work)
            loop.clock = self._clock
            loop.start(seconds, now=False).addErrback(lambda failure: log.failure("a timer failed", failure))
            self._loops.append(loop)

    def keep_in(self, store: IStore) -> None:
        """Save to ``store``, which is open, from now on; also what came before."""
        self._store = store
        self._start_saving()

    async def stop(self) -> None:
        """No timers more; what is to be saved is given to the store."""
        for loop in self._loops:
            if loop.running:
                loop.stop()
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        if self._saving:
            waiting: Deferred[None] = Deferred()
            self._saved.append(waiting)
            await waiting
        await self._save()

    @property
    def peers(self) -> Sequence[PeerInfo]:
        """The active peers, with the addresses by which they are found from the manager's machine."""
        return [_from_here(shown) for shown in self.registry.active]

    def join(self, member: Member, said: Announcement, observed: str) -> Joined:
        """Take ``member`` in; RefusedError by the rules. The whole list follows within :data:`GATHER`."""
        now = self._clock.seconds()
        self._expire()
        joined = self.registry.join(said, observed, now)
        old = self._seats.pop(said.id, None)
        self._seats[said.id] = _Seat(member, joined.machine)
        self.since[said.id] = self._wall()
        if old is not None:
            old.member.fail(RefusedError("this peer connected anew"))
        self._unsaved[said.id] = PeerRecord(said.id, said.name, joined.cookie_hash, int(self._wall()))
        self._schedule()
        return joined

    def heard(self, member: Member, peer: PeerId) -> None:
        """``member``'s lease begins anew."""
        if self._has_seat(member, peer):
            self.registry.touch(peer, self._clock.seconds())

    def want_list(self, member: Member, peer: PeerId) -> None:
        """``member`` is sent the whole list in the next round, however often it asks."""
        if self._has_seat(member, peer):
            self._seats[peer].wants_list = True
            self._schedule()

    def unblocked(self, member: Member, peer: PeerId) -> None:
        """``member`` reads again: it gets the list where it missed changes."""
        if self._has_seat(member, peer) and self._seats[peer].wants_list:
            self._schedule()

    def leave(self, member: Member, peer: PeerId) -> None:
        """``member`` is gone; nothing where another connection has taken its place."""
        if self._has_seat(member, peer):
            del self._seats[peer]
            self.since.pop(peer, None)
            self.registry.leave(peer)
            self._schedule()

    def _has_seat(self, member: Member, peer: PeerId) -> bool:
        seat = self._seats.get(peer)
        return seat is not None and seat.member is member

    def _schedule(self) -> None:
        if self._flush_call is None:
            wait = max(0.0, self._last_flush + GATHER - self._clock.seconds())
            self._flush_call = self._clock.callLater(wait, self._flush)

    def _flush(self) -> None:
        self._flush_call = None
        self._last_flush = self._clock.seconds()
        batches = self.registry.flush()
        self._pages.flushed(batches)
        changes = ChangeLines(batches)
        for seat in list(self._seats.values()):
            if seat.member.stuck:
                seat.wants_list = True  # it gets the list when it reads again, instead of all it missed
            elif seat.wants_list and seat.member.blocked:
                pass  # the list goes out when it reads again
            elif seat.wants_list:
                seat.wants_list = False
                seat.member.send_lines(self._pages.whole(seat.machine))
                seat.member.list_sent()
            elif batches:
                seat.member.send_lines(changes.of(seat.machine))
        if batches:
            self._table_changed()
        self._start_saving()

    def _start_saving(self) -> None:
        if self._unsaved and not self._saving and self._store is not None:
            Deferred.fromCoroutine(self._save()).addErrback(
                lambda failure: log.failure("saving peers failed", failure)
            )

    def _expire(self) -> None:
        for peer in self.registry.expire(self._clock.seconds()):
            seat = self._seats.pop(peer)
            self.since.pop(peer, None)
            log.info("nothing was heard of a peer for the length of its lease")
            if seat.member.stuck:
                seat.member.abort()
            else:
                seat.member.fail(ProtocolError("nothing was heard for the length of the lease"))
            self._schedule()

    def _repeat(self) -> None:
        for seat in self._seats.values():
            seat.wants_list = True
        self._schedule()

    async def _save(self) -> None:
        """All of ``_unsaved``, one call at a time, so that a slow store delays nobody and queues nothing."""
        self._saving = True
        try:
            while self._unsaved and self._store is not None:
                records = list(self._unsaved.values())
                self._unsaved.clear()
                await self._store.save(records)
        finally:
            self._saving = False
            waiting, self._saved = self._saved, []
            for each in waiting:
                each.callback(None)


def _from_here(shown: Shown) -> PeerInfo:
    if shown.machine not in (None, OWN_MACHINE):
        # Loopback of another machine: its address says at least where that is.
        return attrs.evolve(shown.info, host=shown.machine)
    return attrs.evolve(shown.info, host=shown.info.host or "127.0.0.1")
