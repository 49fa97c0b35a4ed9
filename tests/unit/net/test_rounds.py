"""Connections looked at in rounds: when there are pauses, and what becomes of each of them."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from twisted.internet import main
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from p2pd.net import windows
from p2pd.net.rounds import (
    ALL,
    BULK,
    BUSIEST,
    BUSY,
    CROWD,
    EACH,
    IN,
    IN_USE,
    LONG,
    MANY,
    MOST,
    OUT,
    PASSES,
    WINDOW,
    Pause,
    Rounds,
    rounds_of,
)  # fmt: skip


def measured(pause: Pause, start: float, seconds: float, *, used: int, rate: float) -> float:
    """So many move ``rate`` bytes per second together; the moment of the last look."""
    steps = round(seconds / WINDOW)
    for step in range(steps + 1):
        pause.measured(start + step * WINDOW, [int(rate * WINDOW / used)] * used)
    return start + steps * WINDOW


RATE = EACH * 10 / 0.03


def test_a_round_is_to_find_something_for_each_connection() -> None:
    pause = Pause()
    now = measured(pause, 100.0, BUSY - WINDOW, used=10, rate=RATE)
    assert pause.seconds == 0, "at first each message is waited for"
    now = measured(pause, now + WINDOW, WINDOW, used=10, rate=RATE)
    assert pause.seconds == pytest.approx(0.03, rel=0.01)
    now = measured(pause, now + WINDOW, WINDOW, used=10, rate=RATE * 10)
    assert pause.seconds == 0, "that would be less than the least"
    now = measured(pause, now + WINDOW, WINDOW, used=40, rate=BULK * 1.01)
    assert pause.seconds == MOST
    assert not pause.due(now)
    assert pause.due(now + WINDOW)


def test_the_busiest_has_not_to_wait_for_those_that_say_little() -> None:
    pause = Pause()
    busy = 10_000_000
    for step in range(20):
        pause.measured(step * WINDOW, [int(busy * WINDOW), *[IN_USE] * 60])
    assert pause.seconds == pytest.approx(BUSIEST / busy, rel=0.01)
    for step in range(20, 40):
        pause.measured(step * WINDOW, [int(busy * WINDOW), *[IN_USE - 1] * 60])
    assert pause.seconds == 0, "they are not in use"


@pytest.mark.parametrize("used", [MANY, CROWD])
def test_where_few_are_in_use_a_round_finds_more_for_each(used: int) -> None:
    pause = Pause()
    rate = ALL / 0.03
    measured(pause, 0.0, BUSY, used=used, rate=rate)
    assert pause.seconds == pytest.approx(min(0.03, BUSIEST * used / rate), rel=0.01)
    assert EACH * used < ALL
    assert pause.crowd == (used == CROWD)


@pytest.mark.parametrize(("used", "rate"), [(1, 2e6), (MANY - 1, 2e6), (10, BULK * 0.9), (40, 2e4)])
def test_few_or_those_that_wait_for_each_other_are_looked_at_at_once(used: int, rate: float) -> None:
    pause = Pause()
    measured(pause, 0.0, 10 * BUSY, used=used, rate=rate)
    assert pause.seconds == 0


@pytest.mark.parametrize("after", [4.1 * WINDOW, 60.0])
def test_after_a_rest_each_message_is_waited_for_again(after: float) -> None:
    pause = Pause()
    now = measured(pause, 0.0, BUSY + WINDOW, used=10, rate=RATE)
    assert pause.seconds
    pause.measured(now + after, [int(RATE * after / 10)] * 10)
    assert pause.seconds == 0
    measured(pause, now + after + WINDOW, BUSY - 2 * WINDOW, used=10, rate=RATE)
    assert pause.seconds == 0


def test_nothing_that_moves_is_a_rest() -> None:
    pause = Pause()
    now = measured(pause, 0.0, BUSY + WINDOW, used=10, rate=RATE)
    pause.measured(now + WINDOW, [0, 0, 0])
    assert pause.seconds == 0


class Reactor(Clock):
    """What rounds need of one."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[object] = []
        self.at_the_end: list[Callable[[], None]] = []

    def addReader(self, reader: object) -> None:
        if reader not in self.readers:
            self.readers.append(reader)

    def removeReader(self, reader: object) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def addSystemEventTrigger(self, phase: str, event: str, work: Callable[[], None]) -> None:
        assert (phase, event) == ("during", "shutdown")
        self.at_the_end.append(work)


class Fake:
    """One end of a pair of sockets; what is done when it is to be read may be given."""

    def __init__(self, rounds: Rounds, name: str = "") -> None:
        self._rounds = rounds
        self.name = name
        self.mine, self.other = socket.socketpair()
        self.interest = 0
        self.moved = 0
        self.ahead: Any = None
        self.heard: list[object] = []
        self.reads: Callable[[], Any] = lambda: None
        self.waits_for(IN)

    def waits_for(self, interest: int) -> None:
        before, self.interest = self.interest, interest
        if before != interest:
            self._rounds.change(self, before, interest)

    def close(self) -> None:
        self.waits_for(0)
        self.mine.close()
        self.other.close()

    def fileno(self) -> int:
        return self.mine.fileno()

    def let_ahead(self, count: int | None) -> None:
        self.ahead.let(count)

    def doRead(self) -> Any:
        data = self.mine.recv(100)
        self.moved += len(data)
        self.heard.append(data)
        return self.reads() if data else main.CONNECTION_DONE

    def doWrite(self) -> Any:
        self.heard.append("room")
        self.waits_for(self.interest & ~OUT)

    def stopReading(self) -> None:
        self.waits_for(self.interest & ~IN)

    def stopWriting(self) -> None:
        self.waits_for(self.interest & ~OUT)

    def readConnectionLost(self, reason: Failure) -> None:
        self.heard.append(("read", reason.type))

    def connectionLost(self, reason: Failure) -> None:
        self.heard.append(reason.type)


class Rig:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.rounds = rounds_of(self.reactor)
        self.made: list[Fake] = []

    def connection(self) -> Fake:
        self.made.append(Fake(self.rounds))
        return self.made[-1]

    def look(self) -> None:
        """The reactor does, where it knows of it."""
        for reader in list(self.reactor.readers):
            assert reader is self.rounds
            self.rounds.doRead()

    def busy(self) -> float:
        """Until there are pauses of 30 ms; the seconds that one lasts."""
        now = measured(self.rounds._pause, self.reactor.seconds(), BUSY + WINDOW, used=10, rate=RATE)
        self.reactor.rightNow = now
        return self.rounds._pause.seconds


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    for each in rig.made:
        if each.mine.fileno() >= 0:
            each.close()


def test_whoever_is_ready_has_its_turn(rig: Rig) -> None:
    one, two, three = rig.connection(), rig.connection(), rig.connection()
    one.other.send(b"a")
    two.waits_for(IN | OUT)
    rig.look()
    assert (one.heard, two.heard, three.heard) == ([b"a"], ["room"], [])
    two.other.send(b"b")
    rig.look()
    assert two.heard == ["room", b"b"], "it is looked at again without a pause"


def test_what_is_wanted_soon_is_done_when_all_that_was_ready_is(rig: Rig) -> None:
    one, two = rig.connection(), rig.connection()
    done: list[object] = []

    def first() -> None:
        done.append(("first", len(one.heard), len(two.heard)))
        rig.rounds.soon(lambda: done.append("its own"))

    def reads() -> None:
        rig.rounds.soon(lambda: done.append("last"), last=True)
        rig.rounds.soon(first)

    for each in (one, two):
        each.reads = reads
        each.other.send(b"a")
    rig.look()
    one_of_each = ("first", 1, 1)
    assert done == [one_of_each, one_of_each, "its own", "its own", "last", "last"]
    assert not rig.reactor.getDelayedCalls()


def test_what_is_wanted_soon_outside_a_look_is_done_in_the_next_turn(rig: Rig) -> None:
    done: list[object] = []
    rig.rounds.soon(lambda: done.append("last"), last=True)
    rig.rounds.soon(lambda: done.append("first"))
    assert done == []
    assert len(rig.reactor.getDelayedCalls()) == 1
    rig.reactor.advance(0)
    assert done == ["first", "last"]
    rig.rounds.soon(lambda: done.append("again"))
    rig.reactor.advance(0)
    assert done[2:] == ["again"]


def test_what_is_wanted_soon_at_the_end_of_a_pause_is_done_then(rig: Rig) -> None:
    one = rig.connection()
    done: list[str] = []
    pause = rig.busy()
    one.other.send(b"a")
    rig.look()
    one.reads = lambda: rig.rounds.soon(lambda: done.append("soon"))
    one.other.send(b"b")
    rig.reactor.advance(pause * 1.1)
    assert done == ["soon"]
    assert len(rig.reactor.getDelayedCalls()) == 1, "the next pause"


def test_a_fault_after_a_look_costs_nobody_else(rig: Rig) -> None:
    done: list[object] = []
    rig.rounds.soon(lambda: 1 / 0)
    rig.rounds.soon(sys.exit)
    rig.rounds.soon(lambda: done.append("next"))
    rig.reactor.advance(0)
    rig.rounds.soon(lambda: done.append("later"))
    rig.reactor.advance(0)
    assert done == ["next", "later"]


def test_what_goes_on_for_ever_lets_the_reactor_turn(rig: Rig) -> None:
    one = rig.connection()
    times = 0

    def again() -> None:
        nonlocal times
        times += 1
        if times < 3 * PASSES:
            rig.rounds.soon(again)

    one.reads = partial(rig.rounds.soon, again)
    one.other.send(b"a")
    rig.look()
    assert times == PASSES
    assert len(rig.reactor.getDelayedCalls()) == 1
    rig.reactor.advance(0)
    assert times == 3 * PASSES
    assert not rig.reactor.getDelayedCalls()


def test_in_a_pause_it_waits_in_the_kernel(rig: Rig) -> None:
    one = rig.connection()
    pause = rig.busy()
    one.other.send(b"a")
    rig.look()
    one.other.send(b"b")
    rig.look()
    rig.reactor.advance(pause * 0.9)
    assert one.heard == [b"a"]
    assert not rig.reactor.readers
    rig.reactor.advance(pause * 0.2)
    assert one.heard == [b"a", b"b"]
    # That was something, so there is a pause again; behind one in which nothing came the reactor waits.
    rig.reactor.advance(pause * 1.1)
    assert rig.reactor.readers == [rig.rounds]
    assert not rig.reactor.getDelayedCalls()
    one.other.send(b"c")
    rig.look()
    assert one.heard == [b"a", b"b", b"c"]


def test_before_a_long_pause_it_is_told(rig: Rig) -> None:
    one = rig.connection()
    told: list[bytes] = []
    rig.rounds.tell(lambda: 1 / 0)  # type: ignore[arg-type]
    tell = lambda: told.append(b"".join(each for each in one.heard if isinstance(each, bytes)))  # noqa: E731
    rig.rounds.tell(tell)
    one.other.send(b"a")
    rig.look()
    assert told == [], "there is no pause"
    pause = rig.busy()
    one.other.send(b"b")
    rig.look()
    assert told == [b"ab"], "after what was found"
    one.other.send(b"c")
    rig.reactor.advance(pause)
    assert told == [b"ab", b"abc"], "and before each further one"
    rig.rounds._pause.seconds = LONG * 0.9
    one.other.send(b"d")
    rig.reactor.advance(pause)
    assert (len(one.heard), len(told)) == (4, 2), "a short one is none"
    rig.rounds._pause.seconds = pause
    rig.rounds.tell_no_more(tell)
    rig.rounds.tell_no_more(tell)
    one.other.send(b"e")
    rig.reactor.advance(pause)
    assert (len(one.heard), len(told)) == (5, 2)


class Told:
    """Stands for what limits a connection."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self.rate: float | None = None
        self.comes: float | None = 0.0
        self.said: list[int | None] = []
        self.asked: list[tuple[float, int]] = []

    def look(self, now: float) -> None:
        self.rate = self.comes

    def wanted(self, pause: float, least: int) -> int:
        self.asked.append((pause, least))
        return least + len(self.asked)

    def let(self, count: int | None) -> None:
        self.limit = count
        self.said.append(count)


def test_those_who_send_are_told_how_much_may_be_under_way(rig: Rig) -> None:
    several = [rig.connection() for _ in range(4)]
    ours = several.pop()
    told = [Told() for _ in several]
    for each, ahead in zip(several, told, strict=True):
        each.ahead = ahead

    def come(*connections: Fake) -> None:
        for one in connections:
            one.other.send(b"a")
        rig.look()
        rig.reactor.advance(WINDOW)

    def rates(*comes: float | None) -> None:
        for ahead, rate in zip(told, comes, strict=True):
            ahead.comes = rate

    rates(1e6, 1e6, None)
    come(*several, ours)
    come(*several, ours)
    assert [ahead.said for ahead in told] == [[None] * 2] * 3, "of one nothing is known; ours does not count"
    rates(1e6, 1e6, 1e6)
    come(*several)
    assert [ahead.asked for ahead in told] == [[(0.0, windows.ENOUGH)]] * 3
    assert [ahead.limit for ahead in told] == [windows.ENOUGH + 1] * 3
    come(several[0])
    assert [ahead.limit for ahead in told] == [windows.ENOUGH + 2] * 3, "also who says nothing"
    rig.rounds._pause.seconds = 0.08
    rig.rounds._limit(rig.reactor.seconds(), several)
    assert [ahead.asked[-1] for ahead in told] == [(0.08, windows.ENOUGH)] * 3
    rates(1e6, 1e6, 0)
    come(several[0])
    assert [ahead.limit for ahead in told] == [None] * 3, "fewer send: nobody is limited any more"
    said = len(told[2].said)
    come(several[0])
    assert len(told[2].said) == said


BEFORE = 1_400_000


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What was said of turns: None to have long ones, or what they were before; the system lets it."""
    said: list[int | None] = []

    def take() -> int:
        said.append(None)
        return BEFORE

    monkeypatch.setattr("p2pd.net.turns.take", take)
    monkeypatch.setattr("p2pd.net.turns.give_back", said.append)
    return said


def crowded(rig: Rig, connections: list[Fake], windows: int, each: int = int(BULK * WINDOW / 4)) -> None:
    """So many windows long each of them moves so much."""
    for _ in range(windows):
        for one in connections:
            one.reads = partial(_moves, one, each)
            one.other.send(b"a")
        rig.look()
        rig.reactor.advance(MOST)  # if there is a pause, this ends it
        rig.reactor.advance(WINDOW - MOST)


def _moves(one: Fake, count: int) -> None:
    one.moved += count


def test_in_a_crowd_turns_are_long(rig: Rig, turns: list[int | None]) -> None:
    connections = [rig.connection() for _ in range(CROWD)]
    crowded(rig, connections[:-1], 4)
    assert turns == [], "one less is none"
    crowded(rig, connections, 10)
    assert turns == [None], "that is said once"
    crowded(rig, connections[:-1], 2)
    assert turns == [None], "others may be back in a moment"
    crowded(rig, connections[:-1], 2)
    assert turns == [None, BEFORE]


def test_when_nothing_comes_any_more_turns_are_the_usual_ones_again(
    rig: Rig, turns: list[int | None]
) -> None:
    connections = [rig.connection() for _ in range(CROWD)]
    crowded(rig, connections, 10)
    assert turns == [None]
    rig.reactor.advance(5 * WINDOW)
    assert turns == [None, BEFORE]
    assert not rig.reactor.getDelayedCalls()


def test_turns_that_could_not_be_changed_are_not_changed_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int | None] = []
    monkeypatch.setattr("p2pd.net.turns.take", lambda: said.append(None))
    monkeypatch.setattr("p2pd.net.turns.give_back", said.append)
    connections = [rig.connection() for _ in range(CROWD)]
    for _ in range(2):
        crowded(rig, connections, 10)
        rig.reactor.advance(5 * WINDOW)
    assert said == [None, None]


def test_who_stops_has_the_usual_turns_again(rig: Rig, turns: list[int | None]) -> None:
    crowded(rig, [rig.connection() for _ in range(CROWD)], 10)
    for work in rig.reactor.at_the_end:
        work()
    assert turns == [None, BEFORE]
    assert not rig.reactor.getDelayedCalls()


def test_who_comes_in_a_pause_waits_for_its_end_too(rig: Rig) -> None:
    one = rig.connection()
    pause = rig.busy()
    one.other.send(b"a")
    rig.look()
    one.close()
    two = rig.connection()
    two.other.send(b"b")
    rig.look()
    assert two.heard == []
    rig.reactor.advance(pause)
    assert two.heard == [b"b"]
    assert len(rig.reactor.getDelayedCalls()) == 1, "one pause, not one for each"


def test_who_comes_while_it_is_looked_has_no_pause_of_its_own(rig: Rig) -> None:
    one = rig.connection()
    pause = rig.busy()
    one.other.send(b"a")
    rig.look()
    one.reads = lambda: rig.connection() and None
    one.other.send(b"b")
    rig.reactor.advance(pause)
    assert one.heard == [b"a", b"b"]
    assert len(rig.made) == 2
    assert not rig.reactor.readers
    assert len(rig.reactor.getDelayedCalls()) == 1


def test_a_look_that_fails_is_not_the_last_one(rig: Rig) -> None:
    one = rig.connection()
    rig.reactor.removeReader(rig.rounds)  # as the reactor does then
    rig.rounds.connectionLost(Failure(MemoryError()))
    one.other.send(b"a")
    rig.look()
    assert one.heard == [b"a"]


def test_when_all_are_gone_nothing_is_left_with_the_reactor(rig: Rig) -> None:
    one = rig.connection()
    one.close()
    assert not rig.reactor.readers
    two = rig.connection()
    pause = rig.busy()
    two.other.send(b"a")
    rig.look()
    two.close()
    rig.reactor.advance(pause)
    assert not rig.reactor.readers
    assert not rig.reactor.getDelayedCalls()


def test_a_fault_costs_one_connection(rig: Rig) -> None:
    one, two = rig.connection(), rig.connection()
    one.reads = lambda: 1 / 0
    for each in (one, two):
        each.other.send(b"a")
    rig.look()
    assert one.heard == [b"a", ZeroDivisionError]
    assert one.interest == 0
    assert two.heard == [b"a"]
    assert two.interest == IN


@pytest.mark.parametrize(
    ("interest", "heard"),
    [
        (IN, [b"", ("read", ConnectionDone)]),
        (IN | OUT, [b"", ("read", ConnectionDone)]),
        (OUT, [ConnectionLost]),
    ],
)
def test_the_other_side_is_gone(rig: Rig, interest: int, heard: list[object]) -> None:
    one = rig.connection()
    one.waits_for(interest)
    one.other.close()
    rig.look()
    assert one.heard == heard


def test_whoever_is_ended_by_another_is_not_called(rig: Rig) -> None:
    one, two = rig.connection(), rig.connection()
    one.reads, two.reads = two.close, one.close
    for each in (one, two):
        each.other.send(b"a")
    rig.look()
    assert sorted(map(len, (one.heard, two.heard))) == [0, 1]


def test_what_is_written_to_where_no_room_is_wanted_any_more(rig: Rig) -> None:
    one = rig.connection()
    one.waits_for(IN | OUT)
    one.reads = one.stopWriting
    one.other.send(b"a")
    rig.look()
    assert one.heard == [b"a"]


def test_at_the_end_of_the_reactor_all_are_told_also_in_a_pause(rig: Rig) -> None:
    one, two = rig.connection(), rig.connection()
    rig.busy()
    one.other.send(b"a")
    rig.look()
    assert not rig.reactor.readers
    for work in rig.reactor.at_the_end:
        work()
    assert one.heard == [b"a", ConnectionLost]
    assert two.heard == [ConnectionLost]


def test_each_reactor_has_its_own_and_keeps_it() -> None:
    one, two = Reactor(), Reactor()
    assert rounds_of(one) is rounds_of(one)
    assert rounds_of(one) is not rounds_of(two)
    gc.collect()
