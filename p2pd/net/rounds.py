"""Connections that are looked at together, in rounds, with a pause between them where each would find little.

Among many the data of a link comes in dribs from all of them, and to be woken costs a process more
than what it does then. So the connections of a reactor are in an epoll of their own, which it sees as
one descriptor; while they are busy, and each is given little at a time, it is looked at only every few
milliseconds. What comes or could go out meanwhile waits in the kernel, which it does anyway.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Collection
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

from twisted.internet import main
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from p2pd.net import turns
from p2pd.net.windows import Ahead, Windows

IN, OUT = select.EPOLLIN, select.EPOLLOUT
_GONE = select.EPOLLHUP | select.EPOLLERR
EACH = 16 * 1024
"""Bytes, in and out, that a round is to find for each connection that is in use,"""
ALL = 160 * 1024
"""or for all of them, where they are few,"""
BUSIEST = 128 * 1024
"""and for the busiest one at most: what waits for it in the kernel is not to run out meanwhile."""
IN_USE = 4 * 1024
"""A connection is in use that moves so many bytes in a window;"""
MANY = 3
"""so many have to be,"""
CROWD = 6
"""a crowd are so many,"""
BULK = 1024 * 1024
"""and move so many bytes per second: with less they wait for each other's messages, not for the link."""
LEAST = 0.005
"""Seconds: what would be a shorter pause is none;"""
MOST = 0.08
"""none is longer."""
WINDOW = 0.25
"""Seconds over which is measured what comes and goes."""
LONG = 0.02
"""A pause of so many seconds is told of before."""
BUSY = 1.0
"""Seconds for which it has to go on before there are pauses: at first each message is waited for."""
PASSES = 8
"""What is called after a look may want calls itself: after so many passes the reactor's turn comes first."""

log = Logger("p2pd.net")


class Connection(Protocol):
    """One of them, as far as this goes: what tcp.Connection has, and two more."""

    interest: int
    """The events that it waits for."""
    ahead: Ahead | None
    """None: what is sent ahead is not ours to limit."""

    @property
    def moved(self) -> int:
        """Bytes received and sent so far."""

    def fileno(self) -> int: ...
    def doRead(self) -> Any: ...
    def doWrite(self) -> Any: ...

    def let_ahead(self, count: int | None) -> None:
        """So many bytes may be sent ahead from now on; None: any number. Only where there is ``ahead``."""

    def stopReading(self) -> None: ...
    def stopWriting(self) -> None: ...
    def readConnectionLost(self, reason: Failure) -> None: ...
    def connectionLost(self, reason: Failure) -> None: ...


class Pause:
    """How long, by what was found. Pure; times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.crowd = False
        """A crowd was in use in the last window."""
        self._window = float("-inf")
        self._busy_since = float("inf")

    def due(self, now: float) -> bool:
        """True where :meth:`measured` is to be told."""
        return now - self._window >= WINDOW

    def measured(self, now: float, moved: Collection[int]) -> None:
        """Since the last time each connection moved so many bytes, in and out."""
        span = now - self._window
        self._window = now
        used = sum(1 for each in moved if each >= IN_USE)
        total = sum(moved)
        busy = used >= MANY and span <= 4 * WINDOW and total >= BULK * span
        self.crowd = busy and used >= CROWD
        if not busy:
            self._busy_since, self.seconds = now, 0.0
        elif now - self._busy_since >= BUSY:
            pause = min(max(EACH * used, ALL) * span / total, BUSIEST * span / max(moved), MOST)
            self.seconds = pause if pause >= LEAST else 0.0


@implementer(IReadDescriptor)
class Rounds:
    """The connections of one reactor."""

    def __init__(self, reactor: Any) -> None:
        self._ref = ref(reactor)  # it is the key under which this is kept
        self._epoll = select.epoll()
        self._all: dict[int, Connection] = {}
        self._used: dict[Connection, int] = {}  # since it was measured; what it had moved before
        self._pause = Pause()
        self._windows = Windows()
        self._limited: set[Connection] = set()
        self._next: Any = None  # the call that ends a pause
        self._told: list[Callable[[], None]] = []
        self._after: list[Callable[[], object]] = []  # to be called when the look is over
        self._last: list[Callable[[], object]] = []  # and when that is done
        self._inside = False  # a look or what comes after it is under way
        self._turns_before: int | None = None
        self._calm: Any = None  # the call that ends that
        reactor.addSystemEventTrigger("during", "shutdown", self._end)

    @property
    def _reactor(self) -> Any:
        return self._ref()

    def tell(self, call: Callable[[], None]) -> None:
        """Have ``call`` called before each pause of 20 ms and longer: so long nothing comes."""
        self._told.append(call)

    def tell_no_more(self, call: Callable[[], None]) -> None:
        """The reverse of :meth:`tell`."""
        if call in self._told:
            self._told.remove(call)

    def soon(self, call: Callable[[], object], *, last: bool = False) -> None:
        """Have ``call`` called when all that was ready has been handled, with ``last`` after the others.

        Where no look is under way, that is in the reactor's next turn. A turn for each call costs as much
        as the calls do.
        """
        if not (self._inside or self._after or self._last):
            self._reactor.callLater(0, self._finish)
        (self._last if last else self._after).append(call)

    def change(self, connection: Connection, before: int, after: int) -> None:
        """It waits for other events than before; 0: for none."""
        number = connection.fileno()
        if not after:
            self._epoll.unregister(number)
            del self._all[number]
            self._used.pop(connection, None)
            if not self._all:
                self._reactor.removeReader(self)
        elif before:
            self._epoll.modify(number, after)
        else:
            self._epoll.register(number, after)
            self._all[number] = connection
            if self._next is None:
                self._reactor.addReader(self)

    def fileno(self) -> int:
        """Part of IReadDescriptor."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        """Part of IReadDescriptor."""
        return "rounds"

    def connectionLost(self, reason: Failure) -> None:
        """Part of IReadDescriptor: the look failed, and the reactor would look no more."""
        if self._all and self._next is None:
            self._reactor.addReader(self)

    def doRead(self) -> None:
        """Some connection is ready."""
        try:
            self._look()
            if self._pause.seconds and self._all:
                self._reactor.removeReader(self)
                self._wait()
        finally:
            self._finish()  # that is part of the pause, which would be longer otherwise

    def _go_on(self) -> None:
        found = True
        try:
            found = self._look()  # who comes meanwhile does not have the reactor look
        finally:
            self._next = None
            if found and self._pause.seconds and self._all:
                self._wait()
            elif self._all:
                self._reactor.addReader(self)
            self._finish()

    def _wait(self) -> None:
        self._next = self._reactor.callLater(self._pause.seconds, self._go_on)
        for call in list(self._told) if self._pause.seconds >= LONG else ():
            try:
                call()
            except Exception:
                log.failure("before a pause")

    def _look(self) -> bool:
        events = self._epoll.poll(0, max(len(self._all), 1))
        self._inside = True
        for number, event in events:
            connection = self._all.get(number)
            if connection is not None:  # what came before may have ended it
                self._used.setdefault(connection, connection.moved)
                _handle(connection, event)
        now = self._reactor.seconds()
        if self._pause.due(now):
            self._measure(now)
        return bool(events)

    def _finish(self) -> None:
        self._inside = True
        for _ in range(PASSES):
            calls, self._after = self._after, []
            if not calls:
                calls, self._last = self._last, []
            if not calls:
                break
            for call in calls:
                try:
                    call()
                except BaseException:  # whatever it is, as the reactor does
                    log.failure("after a look")
        self._inside = False
        if self._after or self._last:
            self._reactor.callLater(0, self._finish)

    def _measure(self, now: float) -> None:
        used, self._used = self._used, {}
        self._pause.measured(now, [each.moved - before for each, before in used.items()])
        self._limit(now, [each for each in used if each.ahead is not None])
        if self._pause.crowd:
            self._in_crowd()

    def _limit(self, now: float, used: Collection[Connection]) -> None:
        # Also those that say nothing now: they may again when there is no limit any more.
        coming = {each: each.ahead for each in (*self._limited, *used) if each.ahead is not None}
        for ahead in coming.values():
            ahead.look(now)
        least = self._windows.measured(now, [ahead.rate or 0.0 for ahead in coming.values()])
        for each, ahead in coming.items():
            each.let_ahead(ahead.wanted(self._pause.seconds, least) if least is not None else None)
        self._limited = {each for each, ahead in coming.items() if ahead.limit is not None}

    def _in_crowd(self) -> None:
        """Others of this machine are likely to be in it too: each is to finish what it begins."""
        if self._calm is not None:
            self._calm.reset(4 * WINDOW)
            return
        self._calm = self._reactor.callLater(4 * WINDOW, self._calmed)
        self._turns_before = turns.take()

    def _calmed(self) -> None:
        self._calm = None
        if self._turns_before is not None:  # what we did not change is not ours to take back
            turns.give_back(self._turns_before)

    def _end(self) -> None:
        """The reactor stops, and knows of none of them."""
        if self._calm is not None:
            self._calm.cancel()
            self._calmed()
        for connection in list(self._all.values()):
            _lost(connection, main.CONNECTION_LOST, reading=False)


def _handle(connection: Connection, event: int) -> None:
    """What the reactor does for each of its own; a fault costs one connection."""
    reading = bool(connection.interest & IN)
    if event & _GONE and not event & IN:
        _lost(connection, main.CONNECTION_DONE if reading else main.CONNECTION_LOST, reading)
        return
    why: Exception | None = None
    try:
        if event & IN:
            why = connection.doRead()
        if why is None and event & OUT and connection.interest & OUT:
            why, reading = connection.doWrite(), False
    except Exception as error:
        log.failure("in a connection")
        why = error
    if why is not None:
        _lost(connection, why, reading)


def _lost(connection: Connection, why: Exception, reading: bool) -> None:
    try:
        connection.stopReading()
        if reading and why is main.CONNECTION_DONE:
            connection.readConnectionLost(Failure(why))
        else:
            connection.stopWriting()
            connection.connectionLost(Failure(why))
    except Exception:
        log.failure("in a connection that was lost")


_rounds: WeakKeyDictionary[Any, Rounds] = WeakKeyDictionary()


def rounds_of(reactor: Any) -> Rounds:
    """The ones of that reactor."""
    found = _rounds.get(reactor)
    if found is None:
        found = _rounds[reactor] = Rounds(reactor)
    return found
