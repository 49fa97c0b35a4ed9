"""Writes behind the reactor's back: together where they can be, held while too much waits, all done."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from p2pd.errors import StorageError
from p2pd.share.writing import GATHER, HAND_OVER, LIMIT, MOST_AT_ONCE, Writer


class Reactor:
    """Carries calls over to the test's thread."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def from_thread(self, call: Callable[[], None]) -> None:
        self.calls.put(call)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        assert seconds in (0, GATHER)
        self.calls.put(call)

    def until(self, true: Callable[[], bool]) -> None:
        while not true():
            self.calls.get(timeout=30)()


class Link:
    """Somebody who brings data."""

    def __init__(self) -> None:
        self.held: list[str] = []

    def hold(self, why: str) -> None:
        self.held.append(why)

    def release(self, why: str) -> None:
        self.held.remove(why)


class File:
    """Remembers what was written in which call; waits for the gate."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate
        self.entered = threading.Event()
        self.calls: list[tuple[int, bytes]] = []
        self.bad: set[int] = set()

    def writev(self, offset: int, views: Sequence[memoryview]) -> None:
        self.entered.set()
        assert self.gate.wait(30)
        self.calls.append((offset, b"".join(views)))
        if offset in self.bad:
            raise StorageError("full")


class Fixture:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.writer = Writer(self.reactor.from_thread, self.reactor.later)
        self.gate = threading.Event()
        self.file = File(self.gate)
        self.done: list[tuple[int, str | None]] = []

    def write(self, offset: int, data: bytes = b"x", file: File | None = None) -> None:
        def done(error: StorageError | None) -> None:
            self.done.append((offset, str(error) if error is not None else None))

        self.writer.write(file or self.file, offset, memoryview(data), done)

    def begin(self) -> None:
        """A first write, after which the thread waits at the gate: what comes now is taken together."""
        self.write(10**6)
        self.reactor.until(lambda: self.reactor.calls.empty())
        assert self.file.entered.wait(30)

    def finish(self, count: int) -> None:
        self.gate.set()
        self.reactor.until(lambda: len(self.done) == count)

    def stop(self) -> None:
        self.gate.set()
        ended: list[None] = []
        self.writer.stop().addCallback(ended.append)
        self.reactor.until(lambda: bool(ended))


@pytest.fixture
def fixture() -> Iterator[Fixture]:
    made = Fixture()
    yield made
    made.stop()
    assert not any(thread.name == "writer" and thread.is_alive() for thread in threading.enumerate())


def test_what_waits_is_written_together_where_it_is_neighbouring(fixture: Fixture) -> None:
    other = File(fixture.gate)
    fixture.begin()
    for offset, data in ((4, b"ef"), (0, b"ab"), (100, b"zz"), (2, b"cd")):
        fixture.write(offset, data)
    fixture.write(6, b"no", other)
    assert not fixture.writer.idle
    fixture.finish(6)
    assert sorted(fixture.file.calls[1:]) == [(0, b"abcdef"), (100, b"zz")]
    assert other.calls == [(6, b"no")]
    assert sorted(offset for offset, _ in fixture.done) == [0, 2, 4, 6, 100, 10**6]
    assert fixture.writer.idle


def test_what_was_gathered_is_begun_with_where_nothing_more_is_to_come(fixture: Fixture) -> None:
    fixture.writer.flush()
    fixture.write(0)
    assert not fixture.file.entered.is_set(), "more may come"
    fixture.writer.flush()
    assert fixture.file.entered.wait(30), "without anything that the reactor does"
    fixture.finish(1)
    assert fixture.done == [(0, None)]


def test_no_call_is_longer_than_the_system_takes(fixture: Fixture) -> None:
    fixture.begin()
    for offset in range(2 * MOST_AT_ONCE + 1):
        fixture.write(offset)
    fixture.finish(2 * MOST_AT_ONCE + 2)
    assert [len(data) for _, data in fixture.file.calls] == [1, MOST_AT_ONCE, MOST_AT_ONCE, 1]


def test_of_two_writes_to_one_place_the_later_is_done_later(fixture: Fixture) -> None:
    fixture.begin()
    for data in (b"1", b"2", b"3"):
        fixture.write(0, data)
    fixture.finish(4)
    assert [data for _, data in fixture.file.calls[1:]] == [b"1", b"2", b"3"]


def test_a_write_that_fails_is_told_and_the_next_is_done(fixture: Fixture) -> None:
    fixture.file.bad = {5}
    fixture.begin()
    fixture.write(5)
    fixture.write(6)  # goes with it
    fixture.write(9)
    fixture.finish(4)
    assert sorted(fixture.done) == [(5, "full"), (6, "full"), (9, None), (10**6, None)]


def test_a_fault_of_ours_is_a_failed_write(fixture: Fixture) -> None:
    class Broken(File):
        def writev(self, offset: int, views: Sequence[memoryview]) -> None:
            raise ValueError

    fixture.write(0, file=Broken(fixture.gate))
    fixture.finish(1)
    assert fixture.done == [(0, "internal error: ValueError")]


def test_who_brings_too_much_is_held_until_there_is_room(fixture: Fixture) -> None:
    link = Link()
    fixture.write(0, bytes(LIMIT - 1))
    assert not fixture.writer.full
    fixture.write(LIMIT)
    assert fixture.writer.full
    for _ in range(2):
        fixture.writer.hold_while_full(link)
    assert link.held == ["disk"]
    fixture.gate.set()
    fixture.reactor.until(lambda: not link.held)
    assert not fixture.writer.full


def test_what_comes_after_waits_for_what_was_before(fixture: Fixture) -> None:
    seen: list[int] = []
    fixture.writer.after(lambda: seen.append(-1))
    assert seen == [-1]
    fixture.begin()
    fixture.write(7)
    fixture.writer.after(lambda: seen.append(len(fixture.file.calls)))
    fixture.write(8)
    fixture.finish(3)
    fixture.reactor.until(lambda: fixture.writer.idle)
    assert seen == [-1, 2]
    assert fixture.file.calls[1:] == [(7, b"x"), (8, b"x")]


def test_what_waits_for_the_disk_to_be_idle_is_called_once_it_is(fixture: Fixture) -> None:
    called: list[bool] = []

    def call() -> None:
        called.append(fixture.writer.idle)

    fixture.write(1)
    fixture.write(2)
    for _ in range(3):
        fixture.writer.when_idle(call)
    fixture.gate.set()
    fixture.reactor.until(lambda: bool(called))
    fixture.write(3)
    fixture.reactor.until(lambda: len(fixture.done) == 3)
    assert called == [True]


def test_much_is_begun_with_at_once_and_little_at_the_end_of_the_turn(fixture: Fixture) -> None:
    fixture.gate.set()
    fixture.write(0, b"little")
    assert not fixture.file.entered.is_set()
    fixture.write(6, bytes(HAND_OVER))
    assert fixture.file.entered.wait(30)
    fixture.reactor.until(lambda: len(fixture.done) == 2)
    assert [offset for offset, _ in fixture.file.calls] == [0]


def test_stopping_writes_everything_first(fixture: Fixture) -> None:
    for offset in range(20):
        fixture.write(2 * offset)
    fixture.stop()
    assert sorted(offset for offset, _ in fixture.done) == list(range(0, 40, 2))


def test_of_two_that_overlap_the_later_one_wins(fixture: Fixture) -> None:
    fixture.begin()
    fixture.write(5, b"unverified step")
    fixture.write(0, b"the verified piece")
    fixture.write(30, b"elsewhere")
    fixture.finish(4)
    content = bytearray(64)
    for offset, data in fixture.file.calls[1:]:
        content[offset : offset + len(data)] = data
    assert content[:18] == b"the verified piece"
    assert content[30:39] == b"elsewhere"


def test_without_a_thread_it_is_written_all_the_same(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    fixture.gate.set()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        fixture.write(0, b"slow")
        fixture.finish(1)
    fixture.write(4, b"fast")
    fixture.finish(2)
    assert fixture.file.calls == [(0, b"slow"), (4, b"fast")]


def test_what_follows_a_delivery_comes_once_after_all_and_before_anybody_is_released(
    fixture: Fixture,
) -> None:
    order: list[str] = []
    link = Link()

    def told() -> None:
        order.append(f"told, {len(link.held)} held")
        raise RuntimeError("a fault of ours")

    def done(error: StorageError | None) -> None:
        order.append("done")
        fixture.writer.when_told(told)

    for number in range(3):
        fixture.writer.write(fixture.file, number * 4, memoryview(b"data"), done)
    fixture.writer.write(fixture.file, 12, memoryview(bytes(LIMIT)), done)
    fixture.writer.hold_while_full(link)
    fixture.gate.set()
    fixture.reactor.until(lambda: fixture.writer.idle)
    assert [each for each in order if each == "done"] == ["done"] * 4
    assert order[-1].startswith("told")
    assert order.count("told, 1 held") >= 1
    assert link.held == [], "though what was told failed"
