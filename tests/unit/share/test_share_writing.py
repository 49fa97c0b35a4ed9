"""Writes behind the reactor's back: in order, held while there is too much, all done at the end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from p2pd.errors import StorageError
from p2pd.share.writing import LIMIT, Writer


class Reactor:
    """Carries calls over to the test's thread."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def from_thread(self, call: Callable[[], None]) -> None:
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


class Fixture:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.writer = Writer(self.reactor.from_thread)
        self.gate = threading.Event()
        self.done: list[tuple[object, StorageError | None]] = []

    def write(self, what: object, size: int = 1, error: Exception | None = None) -> None:
        def work() -> None:
            assert self.gate.wait(30)
            if error is not None:
                raise error

        self.writer.write(work, size, lambda problem: self.done.append((what, problem)))

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


def test_writes_are_done_in_order_and_told_in_order(fixture: Fixture) -> None:
    for number in range(50):
        fixture.write(number)
    assert not fixture.writer.idle
    fixture.gate.set()
    fixture.reactor.until(lambda: len(fixture.done) == 50)
    assert fixture.done == [(number, None) for number in range(50)]
    assert fixture.writer.idle


def test_a_write_that_fails_is_told_and_the_next_is_done(fixture: Fixture) -> None:
    error = StorageError("full")
    fixture.write("bad", error=error)
    fixture.write("good")
    fixture.gate.set()
    fixture.reactor.until(lambda: len(fixture.done) == 2)
    assert fixture.done == [("bad", error), ("good", None)]


def test_who_brings_too_much_is_held_until_there_is_room(fixture: Fixture) -> None:
    link = Link()
    fixture.write("most", LIMIT - 1)
    assert not fixture.writer.full
    fixture.write("rest", 1)
    assert fixture.writer.full
    for _ in range(2):
        fixture.writer.hold_while_full(link)
    assert link.held == ["disk"]
    fixture.gate.set()
    fixture.reactor.until(lambda: not link.held)
    assert not fixture.writer.full


def test_what_comes_after_waits_for_what_was_before(fixture: Fixture) -> None:
    order: list[str] = []
    fixture.writer.after(lambda: order.append("at once"))
    assert order == ["at once"]
    fixture.writer.write(lambda: order.append("write"), 1, lambda error: None)
    fixture.writer.after(lambda: order.append("after"))
    fixture.writer.write(lambda: order.append("later"), 1, lambda error: None)
    fixture.reactor.until(lambda: fixture.writer.idle)
    assert order == ["at once", "write", "after", "later"]


def test_what_waits_for_the_disk_to_be_idle_is_called_once_it_is(fixture: Fixture) -> None:
    called: list[bool] = []

    def call() -> None:
        called.append(fixture.writer.idle)

    fixture.write("one")
    fixture.write("two")
    for _ in range(3):
        fixture.writer.when_idle(call)
    fixture.gate.set()
    fixture.reactor.until(lambda: bool(called))
    fixture.write("three")
    fixture.reactor.until(lambda: len(fixture.done) == 3)
    assert called == [True]


def test_stopping_writes_everything_first(fixture: Fixture) -> None:
    for number in range(20):
        fixture.write(number)
    fixture.stop()
    assert [what for what, _ in fixture.done] == list(range(20))
