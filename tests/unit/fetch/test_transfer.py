"""The transfer and its picker, fed with events and a clock: no network, no disk, no waiting."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.fetch.picker import Picker, Run, SourceKey
from p2pd.fetch.sources import MOST_GETS, Source
from p2pd.fetch.transfer import GRANTS, STALL, Transfer
from p2pd.pieces import Bitfield

PIECE = 100
LIMIT = 10_000_000


def field(text: str) -> Bitfield:
    """``"110"``: pieces 0 and 1 of three."""
    return Bitfield.of(len(text), (i for i, char in enumerate(text) if char == "1"))


class Wire:
    """A driver that keeps what was said, and grants what is wanted."""

    def __init__(self) -> None:
        self.wants: dict[SourceKey, int] = {}
        self.gets: dict[tuple[SourceKey, int], Run] = {}
        self.duplicates: set[tuple[SourceKey, int]] = set()
        self.cancelled: list[tuple[SourceKey, int]] = []
        self.blamed: list[SourceKey] = []
        self.trusted: list[SourceKey] = []
        self._grant = 0

    def want(self, source: SourceKey, count: int, place: int, once: bool) -> None:
        self.wants[source] = count

    def get(self, source: SourceKey, grant: int, run: Run, duplicate: bool) -> None:
        self.gets[source, grant] = run
        if duplicate:
            self.duplicates.add((source, grant))

    def cancel(self, source: SourceKey, grant: int) -> None:
        self.cancelled.append((source, grant))
        self.gets.pop((source, grant), None)
        self.duplicates.discard((source, grant))

    def blame(self, source: SourceKey, piece: int) -> None:
        self.blamed.append(source)

    def trust(self, source: SourceKey) -> None:
        self.trusted.append(source)

    def grant(
        self, transfer: Transfer, source: SourceKey, now: float, limit: int = LIMIT, named: Run | None = None
    ) -> Run | None:
        self._grant += 1
        if not transfer.granted(source, self._grant, limit, now, named) and named is None:
            self.wants[source] = 0
        return self.gets.get((source, self._grant))

    def deliver(self, transfer: Transfer, source: SourceKey, now: float, right: bool = True) -> bool:
        """The source's oldest get arrives whole."""
        for key, grant in list(self.gets):
            if key == source:
                run = self.gets.pop((key, grant))
                for piece in run:
                    transfer.progressed(source, grant, PIECE, now)
                    if transfer.piece_arrived(source, grant, piece, right, now):
                        transfer.piece_written(piece)
                return True
        return False


class StrictWire(Wire):
    """One whose ``gets`` are at every moment those that are live, and that looks at each new one."""

    def get(self, source: SourceKey, grant: int, run: Run, duplicate: bool) -> None:
        others = [key for key, other in self.gets.items() if set(other) & set(run)]
        assert len(others) == duplicate, "asking elsewhere cancels first, and two at once are enough"
        super().get(source, grant, run, duplicate)


def make(pieces: int, held: str = "", **more: str) -> tuple[Transfer, Wire]:
    wire = Wire()
    start = field(held) if held else Bitfield(pieces)
    return Transfer(pieces * PIECE, PIECE, start, wire, **more), wire


def test_a_single_source_is_asked_from_front_to_end() -> None:
    transfer, wire = make(1_000)
    transfer.add_source("a", "a", None, 0.0)
    assert wire.wants == {"a": GRANTS}
    assert wire.grant(transfer, "a", 0.0, 30 * PIECE) == Run(0, 30)
    assert wire.grant(transfer, "a", 0.0, 30 * PIECE) == Run(30, 60)


def test_two_holders_begin_with_their_own_shares_and_help_from_the_tail() -> None:
    transfer, wire = make(100)
    transfer.add_source("a", "a", None, 0.0)
    transfer.add_source("b", "b", None, 0.0)
    first = wire.grant(transfer, "a", 0.0, 10 * PIECE)
    second = wire.grant(transfer, "b", 0.0, 10 * PIECE)
    assert first is not None
    assert second is not None
    assert (first.first, second.first) == (0, 50)
    now = 0.0
    while any(p not in transfer.held for p in range(50, 100)):
        now += 0.01
        wire.deliver(transfer, "b", now)
        run = wire.grant(transfer, "b", now, 5 * PIECE)
        assert run is None or run.end <= 100
    helping = [run for (source, _), run in wire.gets.items() if source == "b"]
    assert helping
    assert all(run.end <= 50 and run.first >= 10 for run in helping)
    assert helping[0].end == 50


def test_the_rarest_piece_comes_first() -> None:
    picker = Picker(Bitfield(4))
    picker.add_source("x", "x", field("1110"))
    picker.add_source("y", "y", field("1011"))
    picker.add_source("z", "z", field("1100"))
    assert picker.take("x", 1) in (Run(1, 2), Run(2, 3))
    assert picker.take("y", 1) == Run(3, 4)


def test_of_what_a_source_names_the_rarest_comes_with_its_neighbours() -> None:
    picker = Picker(Bitfield(8))
    picker.add_source("owner", "o", None)
    picker.add_source("other", "p", Bitfield.of(8, [0, 1, 2]))
    picker.take("other", 1)
    taken = picker.take_named("owner", Run(0, 4), 4)
    assert taken is not None
    assert 3 in taken, "the one that nobody else has"


def test_a_source_is_never_asked_for_what_it_lacks() -> None:
    picker = Picker(Bitfield(6))
    picker.add_source("x", "x", field("010100"))
    assert {picker.take("x", 6), picker.take("x", 6)} == {Run(1, 2), Run(3, 4)}
    assert picker.take("x", 6) is None
    picker.source_has("x", 1 << 5)
    assert picker.take("x", 6) == Run(5, 6)


def test_a_lost_source_gives_its_pieces_back() -> None:
    transfer, wire = make(10)
    transfer.add_source("a", "a", None, 0.0)
    assert wire.grant(transfer, "a", 0.0) == Run(0, 10)
    transfer.add_source("b", "b", None, 0.0)
    assert wire.grant(transfer, "b", 0.0) is None
    assert wire.wants["b"] == 0
    transfer.remove_source("a", 1.0)
    assert wire.wants["b"] == GRANTS
    assert wire.grant(transfer, "b", 1.0) is not None


@pytest.mark.fault(66)
def test_a_source_that_hangs_loses_its_request_and_comes_back_when_it_speaks() -> None:
    transfer, wire = make(10)
    transfer.add_source("a", "a", None, 0.0)
    wire.grant(transfer, "a", 0.0)
    transfer.tick(STALL - 0.1)
    assert not wire.cancelled
    transfer.progressed("a", 1, 10, STALL - 0.1)
    transfer.tick(STALL + 0.1)
    assert not wire.cancelled
    transfer.tick(2 * STALL + 0.1)
    assert wire.cancelled == [("a", 1)]
    assert transfer.sources["a"].stalled
    transfer.progressed("a", 1, 10, 20.0)
    assert not transfer.sources["a"].stalled
    assert wire.wants["a"] == GRANTS


def test_a_wrong_piece_costs_the_source_its_place() -> None:
    transfer, wire = make(4)
    transfer.add_source("a", "a", None, 0.0)
    wire.grant(transfer, "a", 0.0)
    assert not transfer.piece_arrived("a", 1, 0, False, 0.1)
    assert wire.blamed == ["a"]
    assert "a" not in transfer.sources
    assert not transfer.piece_arrived("a", 1, 1, True, 0.2)
    assert len(transfer.held) == 0


def test_the_endgame_asks_a_second_source_and_stops_the_loser() -> None:
    transfer, wire = make(2)
    transfer.add_source("slow", "a", None, 0.0)
    transfer.add_source("fast", "b", None, 0.0)
    wire.grant(transfer, "slow", 0.0, PIECE)
    wire.grant(transfer, "fast", 0.0, PIECE)
    wire.deliver(transfer, "fast", 0.1)
    assert wire.grant(transfer, "fast", 0.1) is None
    transfer.tick(3.0)
    assert wire.wants["fast"] == GRANTS
    assert wire.grant(transfer, "fast", 3.0) == Run(0, 1)
    assert wire.duplicates
    wire.deliver(transfer, "fast", 3.1)
    assert transfer.done
    assert ("slow", 1) in wire.cancelled


def test_pause_cancels_and_resume_goes_on() -> None:
    transfer, wire = make(10)
    transfer.add_source("a", "a", None, 0.0)
    wire.grant(transfer, "a", 0.0, 5 * PIECE)
    transfer.pause()
    assert wire.cancelled == [("a", 1)]
    assert wire.grant(transfer, "a", 0.1) is None
    transfer.resume(0.2)
    assert wire.wants["a"] == GRANTS
    assert wire.grant(transfer, "a", 0.3) is not None


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_bytes_held(size: int) -> None:
    count = -(-size // PIECE)
    transfer = Transfer(size, PIECE, Bitfield(count), Wire())
    assert transfer.bytes_held == 0
    assert transfer.done == (size == 0)
    full = Transfer(size, PIECE, Bitfield.full(count), Wire())
    assert full.bytes_held == size
    assert full.done


@attrs.define
class World:
    """Sources that behave as hypothesis draws; checks the rules after every event."""

    pieces: int
    transfer: Transfer
    wire: Wire
    haves: dict[str, Bitfield | None] = attrs.Factory(dict)
    now: float = 0.0
    arrived: list[int] = attrs.Factory(list)
    writing: list[tuple[int, Source]] = attrs.Factory(list)

    def check(self) -> None:
        live: dict[int, int] = {}
        for (source, grant), run in self.wire.gets.items():
            have = self.haves[str(source)]
            for piece in run:
                assert have is None or piece in have, "asked for what it lacks"
                if (source, grant) not in self.wire.duplicates:
                    live[piece] = live.get(piece, 0) + 1
        pending = {
            piece
            for source in self.transfer.sources.values()
            for get in source.gets.values()
            if not get.duplicate
            for piece in get.pending
        }
        for piece in pending:
            owners = sum(
                1
                for source in self.transfer.sources.values()
                for get in source.gets.values()
                if piece in get.pending and not get.duplicate
            )
            assert owners == 1, "asked twice outside endgame"
        assert len(self.arrived) == len(set(self.arrived)), "a piece counted twice"


@pytest.mark.fault(15)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_order_of_events_ends_with_every_piece_once(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40))
    wire = StrictWire()
    seed = data.draw(st.sampled_from(["", "me"]))
    transfer = Transfer(
        count * PIECE - data.draw(st.integers(0, PIECE - 1)), PIECE, Bitfield(count), wire, seed=seed
    )
    world = World(count, transfer, wire)
    names = "abcd"

    def add(name: str) -> None:
        if name in transfer.sources or name in wire.blamed:
            return
        have = data.draw(
            st.one_of(st.none(), st.sets(st.integers(0, count - 1)).map(lambda s: Bitfield.of(count, s)))
        )
        world.haves[name] = have.copy() if have is not None else None
        transfer.add_source(name, name, have, world.now)

    def lose(name: str) -> None:
        wire.wants.pop(name, None)
        for key in [key for key in wire.gets if key[0] == name]:
            del wire.gets[key]
        transfer.remove_source(name, world.now)

    def announce(name: str) -> None:
        have = world.haves.get(name)
        if name in transfer.sources and have is not None:
            piece = data.draw(st.integers(0, count - 1))
            have.add(piece)
            transfer.source_has(name, 1 << piece, world.now)

    def may(name: str) -> bool:
        """Whether it can be used at all: not one that failed too often, nor one that has enough to do."""
        source = transfer.sources[name]
        return not (transfer.paused or source.resting or len(source.gets) >= MOST_GETS)

    def missing(name: str) -> set[int]:
        """What that source has, and nobody was asked for."""
        have = world.haves[name]
        asked = {piece for run in wire.gets.values() for piece in run}
        writing = {piece for piece, _ in world.writing}
        return {
            piece for piece in range(count) if (have is None or piece in have) and piece not in transfer.held
        } - (asked | writing)

    def grant(name: str) -> None:
        if name in transfer.sources and wire.wants.get(name):
            could = may(name) and missing(name)
            run = wire.grant(transfer, name, world.now, data.draw(st.integers(PIECE, 20 * PIECE)))
            assert run is not None or not could, "declined a grant that could help"

    def named(name: str) -> None:
        have = world.haves.get(name)
        if name in transfer.sources and wire.wants.get(name):
            first = data.draw(st.integers(0, count - 1))
            run = Run(first, data.draw(st.integers(first + 1, count)))
            if have is not None:
                have.update(run.mask)  # who names pieces says that it has them
            could = may(name) and missing(name) & set(run)
            got = wire.grant(transfer, name, world.now, LIMIT, run)
            assert got is not None or not could, "declined a grant that could help"
            assert got is None or set(got) <= set(run)

    def pause(name: str) -> None:
        transfer.pause()
        assert not wire.gets

    def resume(name: str) -> None:
        transfer.resume(world.now)

    def deliver(name: str) -> None:
        for source, number in list(wire.gets):
            if source == name:
                run = wire.gets.pop((source, number))
                for piece in run:
                    transfer.progressed(name, number, PIECE, world.now)
                    if transfer.piece_arrived(name, number, piece, True, world.now):
                        world.writing.append((piece, transfer.sources[name]))
                return

    def written(name: str = "") -> None:
        if world.writing:
            piece, source = world.writing.pop(0)
            before = source.bytes
            assert piece not in transfer.held
            transfer.piece_written(piece)
            assert source.bytes - before == transfer._length(piece)
            world.arrived.append(piece)

    def unwritten(name: str) -> None:
        if world.writing:
            transfer.piece_lost(world.writing.pop(0)[0], world.now)

    def wrong(name: str) -> None:
        for source, number in list(wire.gets):
            if source == name and len(wire.blamed) < 2:
                run = wire.gets[source, number]
                for key in [key for key in wire.gets if key[0] == name]:
                    del wire.gets[key]
                transfer.piece_arrived(name, number, run.first, False, world.now)
                return

    def cancelled(name: str) -> None:
        for source, number in list(wire.gets):
            if source == name:
                del wire.gets[source, number]
                transfer.ended(name, number, world.now)
                return

    def wait(name: str) -> None:
        world.now += data.draw(st.sampled_from([0.1, 1.0, 6.0]))
        transfer.tick(world.now)

    moves: list[Callable[[str], None]] = [
        add,
        lose,
        announce,
        grant,
        grant,
        named,
        pause,
        resume,
        deliver,
        deliver,
        written,
        written,
        unwritten,
        wrong,
        cancelled,
        wait,
    ]
    for _ in range(data.draw(st.integers(0, 60))):
        data.draw(st.sampled_from(moves))(data.draw(st.sampled_from(names)))
        world.check()
    # Whatever happened: one good complete source, and it ends.
    resume("")
    for name in names:
        lose(name)
    world.haves["good"] = None
    transfer.add_source("good", "good", None, world.now)
    for _ in range(3 * count + 3):
        if transfer.done:
            break
        world.now += 0.01
        transfer.tick(world.now)
        grant("good")
        world.check()
        deliver("good")
        while world.writing:
            written()
    assert transfer.done
    assert sorted(world.arrived) == list(range(count))


def test_what_is_being_written_is_asked_of_nobody_else_though_its_source_is_gone() -> None:
    transfer, wire = make(2)
    transfer.add_source("a", "a", None, 0.0)
    assert wire.grant(transfer, "a", 0.0, PIECE) == Run(0, 1)
    source = transfer.sources["a"]
    assert transfer.piece_arrived("a", 1, 0, True, 0.1)
    transfer.remove_source("a", 0.2)
    transfer.add_source("b", "b", None, 0.2)
    assert wire.grant(transfer, "b", 0.2, 2 * PIECE) == Run(1, 2)
    assert 0 not in transfer.held
    transfer.piece_written(0)
    assert 0 in transfer.held
    assert source.bytes == PIECE


def test_what_could_not_be_written_is_asked_for_again() -> None:
    transfer, wire = make(1)
    transfer.add_source("a", "a", None, 0.0)
    wire.grant(transfer, "a", 0.0)
    assert transfer.piece_arrived("a", 1, 0, True, 0.1)
    assert wire.grant(transfer, "a", 0.1) is None
    transfer.piece_lost(0, 0.2)
    assert wire.wants["a"] == GRANTS
    assert wire.grant(transfer, "a", 0.2) == Run(0, 1)
    assert transfer.sources["a"].bytes == 0


def test_a_disk_that_holds_reading_up_is_no_silence_of_the_sources() -> None:
    transfer, wire = make(10)
    transfer.add_source("a", "a", None, 0.0)
    wire.grant(transfer, "a", 0.0)
    for second in range(1, 20):
        transfer.unread("a", float(second))
        transfer.tick(float(second))
    assert not transfer.sources["a"].stalled
    transfer.tick(19.0 + STALL + 0.1)
    assert transfer.sources["a"].stalled


def test_a_source_that_never_grants_is_no_source_until_it_does() -> None:
    transfer, wire = make(10)
    transfer.add_source("a", "a", None, 0.0)
    transfer.tick(STALL - 0.1)
    assert not transfer.sources["a"].stalled
    wire.wants.clear()
    transfer.tick(STALL + 0.1)
    assert transfer.sources["a"].stalled
    assert wire.wants == {"a": GRANTS}  # said again, lest it was lost
    assert wire.grant(transfer, "a", 20.0) == Run(0, 10)
    assert not transfer.sources["a"].stalled


@pytest.mark.fault(66)
def test_long_pieces_are_taken_away_from_a_slow_source() -> None:
    piece = 32 * 2**20
    wire = Wire()
    transfer = Transfer(3 * piece, piece, Bitfield(3), wire)
    transfer.add_source("slow", "a", None, 0.0)
    transfer.add_source("fast", "b", None, 0.0)
    assert wire.wants == {"slow": 1, "fast": 1}
    slow = wire.grant(transfer, "slow", 0.0, piece)
    assert slow == Run(0, 1)
    transfer.progressed("slow", 1, 20_000, 1.0)
    now = 1.0
    for _ in range(2):
        run = wire.grant(transfer, "fast", now, piece)
        assert run is not None
        grant = wire._grant
        now += 0.1
        transfer.progressed("fast", grant, piece, now)
        wire.gets.pop(("fast", grant))
        assert transfer.piece_arrived("fast", grant, run.first, True, now)
        transfer.piece_written(run.first)
    assert wire.wants["fast"] == GRANTS
    assert wire.grant(transfer, "fast", now, piece) == Run(0, 1)
    assert ("slow", 1) in wire.cancelled
    assert not wire.duplicates


def test_a_careful_source_gets_one_piece_at_a_time_until_one_is_right() -> None:
    transfer, wire = make(100)
    transfer.add_source("a", "a", None, 0.0, careful=True)
    assert wire.wants == {"a": 1}
    run = wire.grant(transfer, "a", 0.0)
    assert run is not None
    assert len(run) == 1
    assert wire.grant(transfer, "a", 0.0) is None, "the first one is not here yet"
    transfer.tick(1.0)
    assert wire.wants == {"a": 0}, "nor is it told `want` meanwhile"
    wire.deliver(transfer, "a", 1.5)
    assert wire.trusted == ["a"]
    assert wire.wants == {"a": GRANTS}
    assert wire.grant(transfer, "a", 1.5) is not None
    assert wire.grant(transfer, "a", 1.5) is not None, "several at once, as from any source"
    wire.deliver(transfer, "a", 2.0)
    assert wire.trusted == ["a"], "told once"


def test_a_careful_source_that_is_wrong_again_is_blamed_again() -> None:
    transfer, wire = make(100)
    transfer.add_source("a", "a", None, 0.0, careful=True)
    wire.grant(transfer, "a", 0.0)
    wire.deliver(transfer, "a", 1.0, right=False)
    assert wire.blamed == ["a"]
    assert wire.trusted == []
    assert not transfer.sources
    assert transfer.bytes_held == 0


def test_a_careful_source_that_hangs_loses_its_piece_to_another() -> None:
    transfer, wire = make(2)
    transfer.add_source("a", "a", None, 0.0, careful=True)
    first = wire.grant(transfer, "a", 0.0)
    transfer.add_source("b", "b", None, 0.0)
    transfer.tick(STALL + 0.1)
    taken: list[int] = []
    while (run := wire.grant(transfer, "b", STALL + 0.1)) is not None:
        taken += run
    assert first is not None
    assert set(first) <= set(taken)


def test_a_source_that_gave_nothing_is_asked_again_after_a_pause() -> None:
    transfer, wire = make(10)
    transfer.add_source("a", "a", None, 0.0)
    transfer.tick(STALL + 1)  # no grant came: it counts as none, and was told `want` again
    assert transfer.sources["a"].stalled
    transfer.pause()
    assert wire.wants["a"] == 0
    transfer.resume(10.0)
    assert wire.wants["a"] == GRANTS
    assert wire.grant(transfer, "a", 10.0) is not None


def test_no_more_than_a_few_of_its_grants_are_used_at_once() -> None:
    transfer, wire = make(1000)
    transfer.add_source("a", "a", None, 0.0)
    given = [wire.grant(transfer, "a", 0.0, PIECE) for _ in range(100)]
    assert [run is not None for run in given] == [True] * MOST_GETS + [False] * (100 - MOST_GETS)
    transfer.tick(0.25)
    assert wire.wants["a"] == 0
    wire.deliver(transfer, "a", 0.3)
    transfer.tick(0.5)
    assert wire.wants["a"] == GRANTS
    assert wire.grant(transfer, "a", 0.5, PIECE) is not None


def test_a_piece_that_is_being_written_is_not_asked_for_again() -> None:
    transfer, wire = make(2)
    transfer.add_source("slow", "a", None, 0.0)
    transfer.add_source("fast", "b", None, 0.0)
    wire.grant(transfer, "slow", 0.0, PIECE)
    wire.grant(transfer, "fast", 0.0, PIECE)
    wire.deliver(transfer, "fast", 0.1)
    transfer.tick(3.0)
    assert wire.grant(transfer, "fast", 3.0) == Run(0, 1)
    ((_, grant),) = [key for key in wire.gets if key[0] == "fast"]
    assert transfer.piece_arrived("fast", grant, 0, True, 3.1)  # right, and not yet in the file
    assert ("slow", 1) in wire.cancelled
    transfer.ended("slow", 1, 3.1)
    assert wire.grant(transfer, "slow", 3.1) is None
    transfer.piece_lost(0, 3.2)
    assert wire.grant(transfer, "slow", 3.2) == Run(0, 1)


def test_the_pieces_that_came_of_complete_holders_are_known() -> None:
    transfer, wire = make(4)
    transfer.add_source("whole", "a", None, 0.0)
    transfer.add_source("part", "b", field("1100"), 0.0)
    for key, piece in (("whole", 0), ("part", 1), ("whole", 2)):
        wire.grant(transfer, key, 0.0, PIECE, Run(piece, piece + 1))
        assert wire.deliver(transfer, key, 0.0)
    assert transfer.first.mask == 0b101


def test_a_partial_source_is_told_want_before_it_has_anything_new() -> None:
    transfer, wire = make(4, "1100")
    transfer.add_source("part", "a", field("1000"), 0.0)
    assert wire.wants == {"part": GRANTS}
