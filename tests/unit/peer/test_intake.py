"""The intake with real sinks and a real writer: what counts as held is in the file, whoever sent what."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import attrs
import blake3
import pytest
from twisted.internet.task import Clock

from p2pd.errors import StorageError
from p2pd.fetch.probing import OwnLink
from p2pd.fetch.runs import FEW_AT_ONCE, LONG_AT_ONCE
from p2pd.model import FileId, Manifest, PeerId, PeerInfo
from p2pd.peer.activity import Activity
from p2pd.peer.fetching import Fetching
from p2pd.peer.intake import Intake
from p2pd.peer.receiving import STEP, BufferPool
from p2pd.peer.stock import Part
from p2pd.pieces import Bitfield
from p2pd.share.writing import Writer
from p2pd.wire import messages as m

PIECE = 4 * STEP
"""Longer than a step: its steps are written before it is verified."""
GRANT = 16 * PIECE


class Link:
    """The other side of a conversation: keeps what it was told."""

    other = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.unread = False
        self.sent: list[m.Message] = []

    def send(self, message: m.Message, body: bytes = b"") -> None:
        self.sent.append(message)

    def asks_for(self, name: str) -> bool:
        return False

    def hold(self, why: str) -> None:
        """Nothing is read here anyway."""

    def release(self, why: str) -> None:
        """As before."""


class File:
    """In memory; writes wait for ``gate``, and those that touch ``bad`` offsets fail."""

    def __init__(self, size: int) -> None:
        self.content = bytearray(size)
        self.bad: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def writev(self, offset: int, views: Sequence[memoryview]) -> None:
        self.gate.wait(30)
        for view in views:
            if offset in self.bad:
                self.bad.discard(offset)
                raise StorageError("no room")
            self.content[offset : offset + len(view)] = view
            offset += len(view)

    def close(self) -> None:
        """Nothing to close."""


@attrs.define
class Source:
    """Somebody who sends what the test says."""

    fetching: Fetching
    link: Link
    info: PeerInfo

    def grant(self, file_id: str, number: int) -> m.Get:
        self.fetching.handlers()[m.Grant](m.Grant(file_id, number, GRANT))
        get = self.link.sent[-1]
        assert isinstance(get, m.Get)
        assert get.grant == number
        return get

    def send(self, grant: int, offset: int, data: bytes) -> None:
        self.fetching.handlers()[m.Data](m.Data(grant, offset, len(data)))
        view = memoryview(data)
        while view:
            sink = self.fetching.current
            assert sink is not None
            target = sink.target()
            count = min(len(target), len(view))
            target[:count] = view[:count]
            view = view[count:]
            self.fetching.body_received(count)


class Shelf:
    """A stock that nobody is served from."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def begin(self, part: Part) -> None:
        pass

    def gained(self, part: Part, count: int) -> None:
        self.told.append(count)
        assert sum(self.told) == len(part.held), "all is told, and after it is held"

    def announce(self, part: Part) -> None:
        pass

    def catch_up(self, company: object, file_id: FileId) -> None:
        pass

    def end(self, part: Part, *, done: bool) -> None:
        pass


class House:
    """An intake of two pieces, and the owner of its file."""

    def __init__(self) -> None:
        self.content = os.urandom(2 * PIECE)
        pieces = (self.content[:PIECE], self.content[PIECE:])
        manifest = Manifest(2 * PIECE, PIECE, b"".join(blake3.blake3(each).digest() for each in pieces))
        self.clock = Clock()
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.writer = Writer(self.calls.put, lambda _seconds, call: self.calls.put(call))
        self.file = File(2 * PIECE)
        self.errors: list[StorageError] = []
        self.shelf = Shelf()
        self.intake = Intake(
            self, name="f", manifest=manifest, held=Bitfield(2), file=cast(Any, self.file),
            now=self.clock.seconds, activity=Activity(False), pool=BufferPool(), writer=self.writer,
            stock=cast(Any, self.shelf), link=OwnLink(dict, lambda: False), target="f", seed="",
        )  # fmt: skip

    def source(self, letter: str) -> Source:
        link = Link(letter)
        source = Source(Fetching(link), link, PeerInfo(PeerId(letter * 32), letter, "127.0.0.1", 7001))
        self.intake.add(source.fetching, source.info, None)
        return source

    def written(self) -> None:
        while not self.writer.idle:
            self.calls.get(timeout=30)()

    # The owner

    def untrusted(self, source: Fetching) -> float:
        return 60.0

    def trusted(self, source: Fetching) -> None:
        """Nobody is used with care here."""

    def source_gone(self, source: Fetching) -> None:
        """Nobody goes."""

    def storage_failed(self, error: StorageError) -> None:
        self.errors.append(error)

    def complete(self) -> None:
        """Nothing to do."""


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.file.gate.set()
    stopped = house.writer.stop()
    while not stopped.called:
        house.calls.get(timeout=30)()


def test_the_stock_is_told_once_of_all_that_was_written_together(house: House) -> None:
    both, other = house.source("a"), house.source("b")
    first = both.grant(house.intake.file_id, 1)
    second = other.grant(house.intake.file_id, 1)
    house.file.gate.clear()
    for source, get in ((both, first), (other, second)):
        source.send(1, get.offset, house.content[get.offset : get.offset + get.length])
    assert house.shelf.told == []
    house.file.gate.set()
    house.written()
    assert sum(house.shelf.told) == 2
    assert house.intake.transfer.done


def endgame(house: House) -> tuple[Source, m.Get, Source, m.Get]:
    """The slow one has one piece to send; the fast one is asked for that too, after it sent its own."""
    slow, fast = house.source("a"), house.source("b")
    first, own = slow.grant(house.intake.file_id, 1), fast.grant(house.intake.file_id, 1)
    house.clock.advance(0.1)
    fast.send(1, own.offset, house.content[own.offset : own.offset + own.length])
    house.written()
    house.clock.advance(3.0)
    second = fast.grant(house.intake.file_id, 2)
    assert (second.offset, second.length) == (first.offset, first.length)
    return slow, first, fast, second


def test_what_a_liar_sends_of_a_piece_does_not_land_on_the_right_one(house: House) -> None:
    slow, first, fast, second = endgame(house)
    right = house.content[second.offset : second.offset + PIECE]
    # All in one turn: the right piece but for a byte, wrong steps of the same, the last byte.
    fast.send(2, second.offset, right[:-1])
    slow.send(1, first.offset, b"\xee" * (3 * STEP))
    fast.send(2, second.offset + PIECE - 1, right[-1:])
    house.written()
    assert house.intake.transfer.done
    assert house.file.content == house.content


def test_a_piece_that_is_being_written_is_asked_of_nobody_else(house: House) -> None:
    slow, _, fast, second = endgame(house)
    house.file.gate.clear()
    fast.send(2, second.offset, house.content[second.offset : second.offset + PIECE])
    assert m.Cancel(1) in slow.link.sent
    slow.fetching.handlers()[m.Cancelled](m.Cancelled(1))
    slow.fetching.handlers()[m.Grant](m.Grant(house.intake.file_id, 7, GRANT))
    assert slow.link.sent[-1] == m.Decline(7)
    house.file.gate.set()
    house.written()
    assert house.file.content == house.content


def test_a_piece_of_which_a_step_was_not_written_is_not_held(house: House) -> None:
    source = house.source("a")
    get = source.grant(house.intake.file_id, 1)
    assert get.offset == 0
    house.file.bad = {0}
    # The whole piece has come before anybody hears of the failure.
    source.send(1, 0, house.content[:PIECE])
    house.written()
    assert house.errors
    assert 0 not in house.intake.transfer.held
    # Asked for again, and written now, it counts.
    for number in (2, 3):
        if not house.intake.transfer.done:
            get = source.grant(house.intake.file_id, number)
            source.send(number, get.offset, house.content[get.offset : get.offset + get.length])
            house.written()
    assert house.intake.transfer.done
    assert house.file.content == house.content


@pytest.mark.fault(66)
def test_a_dead_source_is_found_while_another_is_not_read(house: House) -> None:
    dead, slow = house.source("a"), house.source("b")
    slow.link.unread = True
    for source in (dead, slow):
        source.grant(house.intake.file_id, 1)
    for _ in range(24):
        house.clock.advance(0.25)
        house.intake.tick(house.clock.seconds(), 1)
    assert m.Cancel(1) in dead.link.sent
    assert m.Cancel(1) not in slow.link.sent


def test_how_many_are_on_the_file_says_how_many_of_its_pieces_are_sent_at_once(house: House) -> None:
    house.intake.tick(house.clock.seconds(), 1)
    assert house.intake.part.long_at_once() == LONG_AT_ONCE
    house.intake.tick(house.clock.seconds(), 1000)
    assert house.intake.part.long_at_once() == FEW_AT_ONCE


def test_who_has_nothing_to_ask_for_takes_what_the_source_names(house: House) -> None:
    whole = house.source("a")
    get = whole.grant(house.intake.file_id, 1)
    coming = get.offset // PIECE
    link = Link("b")
    other = Source(Fetching(link), link, PeerInfo(PeerId("b" * 32), "b", "127.0.0.1", 7002))
    house.intake.add(other.fetching, other.info, Bitfield.of(2, [coming]))
    assert [type(each) for each in link.sent] == [m.Want], "at once, though it has nothing new yet"
    other.fetching.handlers()[m.Grant](m.Grant(house.intake.file_id, 1, GRANT))
    other.fetching.handlers()[m.Grant](m.Grant(house.intake.file_id, 2, GRANT, 1 - coming, 1))
    assert link.sent[-2:] == [m.Decline(1), m.Get(2, (1 - coming) * PIECE, PIECE)]


def test_what_came_of_a_complete_holder_is_kept_apart(house: House) -> None:
    whole = house.source("a")
    get = whole.grant(house.intake.file_id, 1)
    whole.send(1, get.offset, house.content[get.offset : get.offset + PIECE])
    link = Link("b")
    other = Source(Fetching(link), link, PeerInfo(PeerId("b" * 32), "b", "127.0.0.1", 7002))
    left = 1 - get.offset // PIECE
    house.intake.add(other.fetching, other.info, Bitfield.of(2, [left]))
    get = other.grant(house.intake.file_id, 1)
    other.send(1, get.offset, house.content[get.offset : get.offset + PIECE])
    house.written()
    assert house.intake.transfer.done
    assert house.intake.part.first.mask == 1 << (1 - left)
