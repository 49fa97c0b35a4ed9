"""Whom to serve next: fed with every order of wants, announcements, uses, cancels and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.fetch.granting import (
    AHEAD,
    AHEAD_OF_CHOOSERS,
    ALONE,
    FIRST_ROUNDS,
    LEAST,
    LONG_PIECE,
    MOST_EACH,
    SLOTS,
    Granting,
)
from p2pd.fetch.picker import Run
from p2pd.fetch.runs import FEW_AT_ONCE, LONG_AT_ONCE, SWARM_RUN, WHOLE_AT_ONCE, of_swarm, to_name
from p2pd.pieces import Bitfield

PIECE = 65536


@attrs.define(eq=False)
class Given:
    client: str
    grant: int
    limit: int
    run: Run | None
    needed: bool
    used: Run | None = None


class World:
    """What the granting said, and what became of it."""

    def __init__(
        self, count: int, held: Bitfield | None = None, first: Bitfield | None = None, seed: str = "",
        piece: int = PIECE, *, gathers: bool = False,
    ) -> None:  # fmt: skip
        self.piece = piece
        self.later: list[Callable[[], None]] = []
        self.count, self.held, self.first = count, held, first
        self.granting = Granting(self, seed, later=self.later.append if gathers else None)
        self.now = 0.0
        self.open: dict[int, Given] = {}
        self.sending: list[Given] = []
        self.last = 0

    def want(self, client: str, count: int, *, place: int = 0, once: bool = False) -> None:
        at_once = LONG_AT_ONCE if self.held is not None else WHOLE_AT_ONCE
        self.granting.offer("f", self.count, self.piece, self.held, self.first, at_once=at_once)
        self.granting.want(client, "f", count, self.now, place=place, once=once)

    def company(self, clients: str, count: int) -> None:
        """All of them want some. The first one was alone when he came, and declines what he got for that."""
        for client in clients:
            self.want(client, count)
        for one in self.of(clients[0]):
            self.decline(one)

    def has(self, client: str, *pieces: int) -> None:
        self.granting.has(client, "f", sum(1 << piece for piece in pieces), self.now)

    def told(self) -> None:
        """All that came at once was."""
        while self.later:
            self.later.pop(0)()

    # The driver

    def grant(self, client: Any, file: Any, grant: int, limit: int, run: Run | None, *, needed: bool) -> None:
        assert file in ("f", "g")
        assert grant > self.last, "a number is one once"
        assert limit >= PIECE
        self.last = grant
        self.open[grant] = Given(client, grant, limit, run, needed)

    def send(self, client: Any, grant: int) -> None:
        one = self.open[grant]
        assert one.client == client
        assert one.used is not None, "only what was named is sent"
        assert one not in self.sending
        self.sending.append(one)

    # What tests do

    def of(self, client: str) -> list[Given]:
        return [one for one in self.open.values() if one.client == client]

    def use(self, one: Given, run: Run | None = None) -> None:
        one.used = run or one.run
        assert one.used is not None
        self.granting.named(one.grant, one.used, len(one.used) * self.piece, self.now)

    def finish(self, one: Given) -> None:
        self.sending.remove(one)
        del self.open[one.grant]
        assert one.used is not None
        self.granting.sent(len(one.used) * self.piece, self.now)
        self.granting.finished(one.grant, self.now)

    def decline(self, one: Given, *, later: bool = False) -> None:
        del self.open[one.grant]
        self.granting.declined(one.grant, self.now, later=later)

    def cancel(self, one: Given) -> None:
        del self.open[one.grant]
        if one in self.sending:
            self.sending.remove(one)
        self.granting.dropped(one.grant, self.now)

    def leave(self, client: str) -> None:
        for one in self.of(client):
            del self.open[one.grant]
            if one in self.sending:
                self.sending.remove(one)
        self.granting.left(client, self.now)


def test_who_is_alone_gets_all_he_wants_and_names_the_pieces_himself() -> None:
    world = World(100)
    world.want("a", 3)
    assert [one.run for one in world.of("a")] == [None] * 3
    world.want("a", 60)
    assert len(world.of("a")) == ALONE


def test_who_wants_some_of_several_files_is_one_downloader() -> None:
    world = World(100)
    assert world.granting.downloaders == 0
    for file in ("f", "g"):
        world.granting.offer(file, 100, PIECE, None)
        world.granting.want("a", file, 1, world.now)
    world.want("b", 1)
    world.has("c", 7)
    assert world.granting.downloaders == 2, "who only says what he has wants none"
    world.leave("b")
    assert world.granting.downloaders == 1
    for file in ("f", "g"):
        world.granting.unwanted("a", file, world.now)
    assert world.granting.downloaders == 0


def test_of_a_complete_holder_every_piece_goes_out_once_before_any_twice() -> None:
    world = World(40)
    world.company("abcd", 3)
    world.want("a", 3)
    seen: list[int] = []
    while len(seen) < 40:
        one = next(iter(world.open.values()))
        assert one.run is not None
        seen += one.run
        world.use(one)
        world.finish(one)
        world.now += 0.01
    assert sorted(seen) == list(range(40))


def test_two_holders_begin_in_different_places() -> None:
    first, second = World(100), World(100)
    for world, place in ((first, 0), (second, 50)):
        for client in "ab":
            world.want(client, 1, place=place)
        for one in list(world.of("a")):
            world.decline(one)
        world.want("a", 1, place=place)
    named = [{piece for one in world.open.values() for piece in one.run or ()} for world in (first, second)]
    assert max(named[0]) < 50 <= min(named[1])


def test_the_next_piece_goes_to_who_passed_on_what_he_was_given() -> None:
    world = World(100)
    for client in "abc":
        world.want(client, 2)
    for one in list(world.of("a")):
        world.decline(one)
    world.want("a", 2)
    got: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for _ in range(12):
        # He is the fastest, too: by what they were sent, the others would be first.
        one = next(iter(world.of("a") or world.open.values()))
        assert one.run is not None
        got[one.client] += one.run
        world.use(one)
        world.finish(one)
        world.now += 0.05
        world.has(one.client, *one.run)
        if one.client == "a":
            world.has("b", *one.run)
            world.has("c", *one.run)
    assert len(got["a"]) > len(got["b"])
    assert len(got["a"]) > len(got["c"])


def test_what_is_wanted_once_is_given_once() -> None:
    world = World(10)
    world.want("a", 3, once=True)
    world.want("b", 3, once=True)
    seen: list[int] = []
    while world.open:
        one = next(iter(world.open.values()))
        assert one.run is not None
        seen += one.run
        world.use(one)
        world.finish(one)
        world.now += 0.01
        world.has(one.client, *one.run)
        world.has("c", *one.run)
    assert sorted(seen) == list(range(10))
    world.want("a", 3)
    assert world.of("a"), "as soon as he wants any"


def test_who_is_first_does_not_get_all_that_is_given_once() -> None:
    world = World(40)
    world.want("a", 3, once=True)
    seen: list[int] = []
    while world.open:
        one = next(iter(world.open.values()))
        assert one.run is not None
        seen += one.run
        world.use(one)
        world.finish(one)
        world.now += 0.01
        world.has("a", *one.run)
    assert 0 < len(seen) <= 40 // 4
    world.want("b", 3, once=True)
    assert world.of("b")
    world.has("b", *seen)
    assert world.of("a"), "what he had was passed on"


def test_a_partial_holder_grants_only_where_it_has_something() -> None:
    held = Bitfield.of(10, [3])
    world = World(10, held)
    world.want("b", 3)
    world.has("a", 3)
    world.want("a", 3)
    assert world.of("a") == []
    assert world.of("b")
    held.add(4)
    world.granting.gained("f", world.now)
    assert world.of("a")
    assert all(one.run is None for one in world.open.values()), "who asks knows what is rare to him"


class Link:
    """Sends what was named, one after the other; each grant is used some time after it was given."""

    def __init__(self, world: World, rate: float) -> None:
        self.world, self.rate = world, rate
        self.free, self.sent, self.most = 0.0, 0, 0
        self._due: dict[int, float] = {}
        self._pieces = iter(range(world.count))

    def run(self, seconds: float, late: dict[str, float], *, whole: bool) -> None:
        """``late``: seconds, by client; ``whole``: all pieces that a grant is for, not one."""
        world = self.world
        end = world.now + seconds
        while world.now < end:
            for one in list(world.open.values()):
                after = world.now + late[one.client]
                if one.used is None and world.now >= self._due.setdefault(one.grant, after):
                    first = next(self._pieces) if one.run is None else 0
                    count = one.limit // PIECE if whole else 1
                    world.use(one, one.run or Run(first, min(first + count, world.count)))
                    for _ in range(count - 1 if one.run is None else 0):
                        next(self._pieces)
            if world.sending and world.now >= self.free:
                length = len(world.sending[0].used or ()) * PIECE
                world.finish(world.sending[0])
                self.sent += length
                self.free = world.now + length / self.rate
            promised = sum(
                one.limit if one.used is None else len(one.used) * PIECE for one in world.open.values()
            )
            self.most = max(self.most, promised)
            world.now += 0.001


FAR_AWAY = dict.fromkeys("abcdefgh", 0.2)


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("near", ["", "a"])
def test_grants_that_are_used_late_and_for_little_do_not_let_the_link_idle(complete: bool, near: str) -> None:
    """Where others choose the pieces, by one of all that it is for: rare ones are few."""
    count = 8000
    world = World(count, None if complete else Bitfield.of(count, range(count - 1)))
    for client in FAR_AWAY:
        world.want(client, 3)
    link = Link(world, 20e6 if complete else 4e6)
    late = FAR_AWAY | dict.fromkeys(near, 0.001)
    link.run(2.0, late, whole=False)
    before, link.most = link.sent, 0
    link.run(2.0, late, whole=False)
    assert link.sent - before > 0.85 * link.rate * 2.0
    assert not complete or link.most < link.rate * 1.5, "what is promised cannot be reconsidered"


@pytest.mark.parametrize("complete", [False, True])
def test_no_more_is_granted_than_the_link_needs(complete: bool) -> None:
    count = 8000
    world = World(count, None if complete else Bitfield.of(count, range(count - 1)))
    clients = "abcdefghijklmnopqrst"
    # One alone takes a tenth of each grant: that says nothing of what several take.
    world.want("a", 3)
    link = Link(world, 10e6)
    link.run(1.0, {"a": 0.0}, whole=False)
    for client in clients:
        world.want(client, 3)
    for one in world.of("a"):
        if one.used is None:
            world.decline(one)
    link.most = 0
    link.run(2.0, dict.fromkeys(clients, 0.001), whole=True)
    assert link.most < link.rate * 0.6


def test_among_several_what_comes_at_once_is_told_before_it_goes_on() -> None:
    world = World(8, gathers=True)
    world.want("a", 3)
    assert world.of("a"), "who is alone does not wait"
    world.want("b", 3)
    for one in world.of("a"):
        world.decline(one)
    world.want("c", 3)
    assert not world.of("c")
    assert len(world.later) == 1
    world.told()
    assert world.of("c")
    one = world.of("b")[0]
    world.use(one)
    assert not world.sending
    world.told()
    assert world.sending == [one]
    world.leave("b")
    world.leave("c")
    world.told()
    world.leave("a")
    world.want("d", 1)
    assert world.of("d"), "nor does who is alone again"


def test_announcements_out_of_range_are_an_error() -> None:
    world = World(10)
    world.want("a", 1)
    with pytest.raises(IndexError):
        world.has("a", 10)


def test_far_away_the_pause_until_a_grant_is_used_counts_too() -> None:
    world = World(4000)
    world.company("abcd", 3)
    for _ in range(100):
        world.now += 0.3
        for one in list(world.open.values())[:LEAST]:
            world.use(one)
            world.finish(one)
    assert world.granting.outflow.rate > LEAST * PIECE / 0.3 / 2


def test_short_pauses_count_so_runs_grow_where_the_processor_is_what_limits() -> None:
    """Each range goes out at once, and the next `get` is late: there was no rate, and so no run, ever."""
    world = World(4000)
    world.company("abcd", 3)
    sent = 0
    for _ in range(100):
        one = next(iter(world.open.values()))
        world.use(one)
        world.finish(one)
        sent += len(one.used or ())
        world.now += 0.01
    assert world.granting.outflow.rate == pytest.approx(sent * PIECE, rel=0.5)
    assert max(len(one.run or ()) for one in world.open.values()) > 1
    # Nobody wanted anything for a while: that is no rate.
    before = world.granting.outflow.rate
    world.now += 10
    one = next(iter(world.open.values()))
    world.use(one)
    world.finish(one)
    assert world.granting.outflow.rate == before


@pytest.mark.parametrize("all_of_it", [False, True])
def test_once_all_is_out_more_is_named_at_once(all_of_it: bool) -> None:
    world = World(64)
    world.company("ab", 1)
    rate = 4 * PIECE / SWARM_RUN
    world.granting.outflow.rate = rate
    world.has("gone", *range(64 if all_of_it else 32))
    for one in list(world.open.values()):
        world.decline(one)
    world.want("a", 1)
    assert to_name(rate) // PIECE == 2
    (one,) = world.of("a")
    assert one.run is not None
    assert len(one.run) == (of_swarm(rate, 64 * PIECE) // PIECE if all_of_it else 2)


def test_who_is_far_away_is_named_as_much_once_all_is_out() -> None:
    world = World(2048)
    world.company("ab", 1)
    granting = world.granting
    granting.outflow.rate = 10e6
    granting._turnaround = granting._base_delay = 0.3
    clients = [client for client in granting._clients() if client.want]
    world.has("gone", *range(2047))
    before = granting._run_bytes(clients[0], clients, True)
    world.has("gone", 2047)
    assert granting._run_bytes(clients[0], clients, True) >= before > of_swarm(10e6, 2048 * PIECE)


def test_long_pieces_are_named_one_by_one_to_the_end() -> None:
    world = World(64, piece=8 * LONG_PIECE)
    world.company("ab", 1)
    world.granting.outflow.rate = world.granting.outflow.best = 3 * world.piece / SWARM_RUN
    world.has("gone", *range(64))
    for one in list(world.open.values()):
        world.decline(one)
    world.want("a", 1)
    (one,) = world.of("a")
    assert one.run is not None
    assert len(one.run) == 1


def test_what_went_out_once_goes_out_again_with_its_neighbours() -> None:
    world = World(64)
    world.company("ab", 1)
    world.granting.outflow.rate = 4 * PIECE / SWARM_RUN
    # The whole file went to others once; of each group of four the second piece twice.
    world.has("gone", *range(64))
    world.has("also gone", *range(1, 64, 4))
    for one in list(world.open.values()):
        world.decline(one)
    world.want("a", 1)
    (one,) = world.of("a")
    assert one.run is not None
    assert len(one.run) == 4
    assert one.run.first % 4 == 0


def test_what_came_of_a_complete_holder_is_named_to_each_of_several_once() -> None:
    held, first = Bitfield.of(40, range(6)), Bitfield.of(40, [2])
    world = World(40, held, first)
    for client in "abc":
        world.want(client, 3)
    world.decline(world.of("a")[0])  # of when it was alone
    for one in [one for one in world.open.values() if one.run is None]:
        world.decline(one)  # nothing that it knows of
    named: dict[str, list[int]] = {client: [] for client in "abc"}

    def pass_on() -> None:
        while named_now := [one for one in world.open.values() if one.run is not None]:
            one = named_now[0]
            assert one.run is not None
            named[one.client] += one.run
            world.use(one)
            world.finish(one)

    pass_on()
    assert named == {"a": [2], "b": [2], "c": [2]}
    for one in list(world.open.values()):
        world.decline(one)
    # All of them are quiet; b tells that it has the next one.
    world.has("b", 7)
    for piece in (6, 7):  # 6 came of a peer
        held.add(piece)
    first.add(7)
    world.granting.gained("f", world.now)
    pass_on()
    assert named == {"a": [2, 7], "b": [2], "c": [2, 7]}


def test_who_is_alone_chooses_also_of_what_came_of_a_complete_holder() -> None:
    world = World(40, Bitfield.of(40, range(6)), Bitfield.of(40, range(6)))
    world.want("a", 3)
    assert [one.run for one in world.of("a")] == [None] * 3


def test_what_was_named_and_declined_is_not_named_again() -> None:
    world = World(40, Bitfield.of(40, [0]), Bitfield.of(40, [0]))
    for client in "ab":
        world.want(client, 3)
    for one in list(world.open.values()):
        world.decline(one)
    (one,) = world.of("a")
    assert one.run == Run(0, 1)
    world.decline(one)
    world.granting.tick(world.now)
    assert not world.of("a")
    world.want("a", 3)
    assert {one.run for one in world.of("a")} == {None}, "it may choose it"


@pytest.mark.parametrize("complete", [False, True])
def test_who_is_alone_and_declines_is_left_alone(complete: bool) -> None:
    held = Bitfield.of(40, range(6))
    world = World(40, held, Bitfield.of(40, [2]))
    world.want("a", 3)
    if complete:
        held.update((1 << 40) - 1)
    declined: list[Run | None] = []
    while world.open:
        one = next(iter(world.open.values()))
        declined.append(one.run)
        assert len(declined) < 10
        world.decline(one)
    assert [run for run in declined if run is not None] == [Run(2, 3)]


def test_only_what_we_name_goes_to_who_is_quiet() -> None:
    first = Bitfield(40)
    world = World(40, Bitfield.of(40, range(6)), first)
    for client in "ab":
        world.granting.offer("f", 40, PIECE, world.held, first)
        world.granting.want(client, "f", 3, world.now, quiet=True)
    assert not world.open
    first.add(4)
    world.granting.gained("f", world.now)
    assert [(one.client, one.run) for one in sorted(world.open.values(), key=lambda one: one.client)] == [
        ("a", Run(4, 5)), ("b", Run(4, 5))
    ]  # fmt: skip


def test_not_all_who_send_begin_with_the_same_one() -> None:
    begun = set()
    for seed in range(20):
        held, first = Bitfield(40), Bitfield(40)
        world = World(40, held, first, seed=str(seed))
        for client in "abcdefgh":
            world.want(client, 1)
        for pieces in (held, first):
            pieces.add(3)
        world.granting.gained("f", world.now)
        begun.add(next(iter(world.open.values())).client)
    assert len(begun) > 3


def test_each_gets_a_piece_of_a_complete_holder_at_first_whatever_the_rate_looks_like() -> None:
    world = World(4000)
    world.company("abcd", 3)
    world.granting.outflow.rate = 1e9
    lengths: list[int] = []
    while len(lengths) < 40:
        one = next(iter(world.open.values()))
        assert one.run is not None
        lengths.append(len(one.run))
        world.use(one)
        world.finish(one)
    assert lengths[: FIRST_ROUNDS * 4] == [1] * FIRST_ROUNDS * 4
    assert lengths[-1] > 8


def test_a_slow_one_holds_up_nobody() -> None:
    world = World(1000)
    for client in "ab":
        world.want(client, 3)
    for one in list(world.of("a")):
        world.decline(one)
    world.want("a", 3)
    served = 0
    slow: list[Given] = []
    for _ in range(2000):
        world.now += 0.01
        for one in list(world.open.values()):
            if one.used is None:
                world.use(one)
        for one in list(world.sending):
            if one.client == "b":
                if one not in slow:
                    slow.append(one)
            else:
                assert one.used is not None
                world.finish(one)
                served += len(one.used)
        if slow and served % 50 == 49:
            one = slow.pop(0)
            if one in world.sending:
                world.finish(one)
    assert served > 800, "the other one had nearly all"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_order_of_events_keeps_the_rules(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    partial = data.draw(st.booleans())
    held = Bitfield(count) if partial else None
    world = World(count, held, gathers=data.draw(st.booleans()))
    wanted: dict[str, int] = {}
    for _ in range(data.draw(st.integers(5, 60))):
        world.now += data.draw(st.sampled_from([0.0, 0.001, 0.05, 1.0]))
        client = data.draw(st.sampled_from("abcd"))
        mine = world.of(client)
        unused = [one for one in mine if one.used is None]
        under_way = [one for one in world.sending if one.client == client]
        what = data.draw(
            st.sampled_from(["want", "has", "use", "decline", "finish", "cancel", "leave", "gain"])
        )
        if what == "want":
            wanted[client] = data.draw(st.integers(0, 5))
            world.want(client, wanted[client], once=data.draw(st.booleans()))
        elif what == "has":
            world.has(client, data.draw(st.integers(0, count - 1)))
        elif what == "use" and unused:
            one = data.draw(st.sampled_from(unused))
            first = one.run.first if one.run is not None else data.draw(st.integers(0, count - 1))
            world.use(one, Run(first, first + 1))
        elif what == "decline" and unused:
            world.decline(data.draw(st.sampled_from(unused)))
        elif what == "finish" and under_way:
            world.finish(under_way[0])
        elif what == "cancel" and mine:
            world.cancel(data.draw(st.sampled_from(mine)))
        elif what == "leave":
            world.leave(client)
            wanted.pop(client, None)
        elif what == "gain" and held is not None:
            held.add(data.draw(st.integers(0, count - 1)))
            world.granting.gained("f", world.now)
        world.granting.tick(world.now)
        assert len(world.later) <= 1
        if data.draw(st.booleans()):
            world.told()
        for each, most in wanted.items():
            assert len(world.of(each)) <= max(ALONE, MOST_EACH, most)
        for one in world.open.values():
            assert one.run is None or 0 <= one.run.first < one.run.end <= count
        if len({one.client for one in world.sending}) > 1:
            assert len(world.sending) <= max(SLOTS, ALONE) + LEAST
    # Whoever wants still something gets it in the end.
    world.leave("a")
    world.want("z", 1)
    for _ in range(100):
        world.now += 1.0
        world.told()
        for one in list(world.open.values()):
            if one.client == "z":
                return
            if one in world.sending:
                world.finish(one)
            elif one.used is None:
                world.decline(one)
        world.granting.tick(world.now)
    assert held is not None, "a complete holder serves whoever asks"
    assert not len(held) or world.of("z")


def long_pieces(clients: str = "abcdefgh") -> World:
    """A partial holder of long pieces, of which all want some; nothing is open."""
    world = World(40, Bitfield.of(40, range(20)), Bitfield(40), piece=8 * LONG_PIECE)
    world.company(clients, 3)
    world.want(clients[0], 3)
    return world


def goes_on(world: World, seconds: float, turns: int) -> None:
    """Grants are used, and one range is through each so many seconds."""
    for turn in range(turns):
        for one in [one for one in world.open.values() if one.used is None]:
            world.use(one, Run(turn % 20, turn % 20 + 1))
        world.now += seconds
        world.finish(world.sending[0])


def test_few_long_pieces_go_out_at_once_and_one_to_each() -> None:
    world = long_pieces()
    assert len(world.open) == LONG_AT_ONCE
    assert len({one.client for one in world.open.values()}) == LONG_AT_ONCE
    goes_on(world, 0.1, 10)
    assert len(world.open) == LONG_AT_ONCE
    assert len(world.sending) == LONG_AT_ONCE - 1, "the last one is not yet used"


def test_so_many_long_pieces_go_out_at_once_as_was_said_last() -> None:
    world = long_pieces()
    world.granting.offer("f", world.count, world.piece, world.held, world.first, at_once=FEW_AT_ONCE)
    goes_on(world, 0.1, 10)
    assert len(world.open) == FEW_AT_ONCE
    world.granting.offer("f", world.count, world.piece, world.held, world.first, at_once=LONG_AT_ONCE)
    goes_on(world, 0.1, 1)
    assert len(world.open) == LONG_AT_ONCE


def test_what_would_idle_is_needed_and_what_somebody_else_could_have_is_not() -> None:
    world = long_pieces()
    while world.open:
        world.decline(next(iter(world.open.values())))
    for client in "abcd":
        world.want(client, 3)
    assert [one.needed for one in world.open.values()] == [True, False, False]
    goes_on(world, 0.1, 1)
    assert [one.needed for one in world.open.values()] == [False] * LONG_AT_ONCE


def test_short_pieces_are_always_needed_and_who_is_alone_is_never_put_off() -> None:
    world = World(40, Bitfield.of(40, range(20)), Bitfield(40))
    world.company("abcd", 3)
    assert len(world.open) >= LEAST
    assert all(one.needed for one in world.open.values())
    world = World(40, piece=8 * LONG_PIECE)
    world.want("a", 3)
    assert [one.needed for one in world.open.values()] == [True] * 3


def test_who_has_enough_is_passed_over_until_he_says_want_or_we_have_nobody_else() -> None:
    world = long_pieces("abcd")
    goes_on(world, 0.1, 4)
    spare = next(one for one in world.open.values() if one.used is None)
    busy = {one.client for one in world.sending}
    world.decline(spare, later=True)
    (other,) = [one for one in world.open.values() if one.used is None]
    assert other.client not in {spare.client, *busy}
    world.decline(other, later=True)
    assert all(one.used for one in world.open.values()), "the two that are left have enough"
    world.want(spare.client, 3)
    (again,) = [one for one in world.open.values() if one.used is None]
    assert (again.client, again.needed) == (spare.client, False)
    world.decline(again, later=True)
    # All others are gone: our link would idle.
    for client in busy:
        world.leave(client)
    first, *more = world.open.values()
    assert first.needed
    assert first.client in {spare.client, other.client}
    assert more == []
    # He cannot put that off: to say `later` is to want none.
    world.decline(first, later=True)
    (last,) = world.open.values()
    assert last.client == ({spare.client, other.client} - {first.client}).pop()
    world.decline(last, later=True)
    assert world.open == {}
    world.want(spare.client, 3)
    assert world.open


def test_what_a_complete_holder_names_is_never_put_off() -> None:
    world = World(40, piece=8 * LONG_PIECE)
    world.company("abcde", 3)
    assert [one.needed for one in world.open.values()] == [True] * SLOTS


def test_more_go_out_at_once_where_few_do_not_fill_our_link() -> None:
    world = long_pieces()
    goes_on(world, 0.05, 40)
    assert len(world.open) == LONG_AT_ONCE
    goes_on(world, 0.12, 20)
    assert LONG_AT_ONCE < len(world.sending) <= 2 * LONG_AT_ONCE


@pytest.mark.fault(11)
def test_who_takes_long_to_put_a_grant_off_keeps_no_place_from_others() -> None:
    world = long_pieces("abcdefgh")
    goes_on(world, 0.1, 4)
    hostile, honest = set("abcdef"), set("gh")
    sent = dict.fromkeys("abcdefgh", 0)
    for _ in range(100):
        for one in [one for one in world.open.values() if one.used is None and one.client in honest]:
            world.use(one, Run(3, 4))
        for one in [one for one in world.sending if one.client in honest]:
            sent[one.client] += 1
            world.finish(one)
        world.now += 0.09
        for one in [one for one in world.open.values() if one.client in hostile and one.used is None]:
            if world.now - world.granting._open[one.grant].at > 0.85:
                world.decline(one, later=True)
                world.want(one.client, 3)
        for one in [one for one in world.sending if one.client in hostile]:
            world.cancel(one)
    assert all(sent[client] > 60 for client in honest)


def test_who_comes_to_one_that_was_alone_does_not_wait_for_its_long_pieces() -> None:
    world = World(40, Bitfield.of(40, range(20)), Bitfield(40), piece=8 * LONG_PIECE)
    world.want("a", 3)
    for number, one in enumerate(list(world.open.values())):
        world.use(one, Run(number, number + 1))
    assert len(world.open) == LONG_AT_ONCE
    world.want("b", 3)
    assert len(world.of("b")) == 1


def test_a_complete_holder_sends_more_at_once_for_its_link_may_be_the_fastest() -> None:
    world = World(40, piece=8 * LONG_PIECE)
    world.company("abcdefgh", 3)
    goes_on(world, 0.1, 10)
    assert len(world.open) == SLOTS


def test_a_complete_holder_sends_fewer_at_once_where_that_was_said_and_fills_its_link() -> None:
    world = World(40, piece=8 * LONG_PIECE)
    world.company("abcdefgh", 3)
    world.granting.offer("f", world.count, world.piece, None, at_once=FEW_AT_ONCE)
    goes_on(world, 0.1, 20)
    assert len(world.open) == FEW_AT_ONCE
    goes_on(world, 0.24, 20)
    assert len(world.open) == WHOLE_AT_ONCE, "they take too little"


def test_of_a_whole_file_and_a_part_the_whole_one_says_how_many_go_out_at_once() -> None:
    world = long_pieces()
    world.granting.offer("g", world.count, world.piece, None, at_once=SLOTS)
    world.granting.offer("f", world.count, world.piece, world.held, world.first, at_once=FEW_AT_ONCE)
    goes_on(world, 0.1, 10)
    assert len(world.open) == FEW_AT_ONCE, "nobody wants the whole one"
    world.granting.want("z", "g", 3, world.now)
    goes_on(world, 0.1, 10)
    assert len(world.open) == SLOTS


@pytest.mark.parametrize(
    ("files", "quiet", "ahead"),
    [
        ("c", "", AHEAD),
        ("p", "", AHEAD_OF_CHOOSERS),
        ("cp", "", AHEAD),
        ("c", "c", AHEAD_OF_CHOOSERS),
        ("cp", "c", AHEAD_OF_CHOOSERS),
        ("cp", "p", AHEAD),
    ],
)
def test_how_far_grants_run_ahead_goes_by_who_chooses(
    files: str, quiet: str, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``files``: complete ones and parts, two want each; ``quiet``: of which they have nothing to ask for."""
    monkeypatch.setattr(Granting, "_lead", lambda self, rate, beyond: beyond)
    granting = World(8).granting
    monkeypatch.setattr(granting, "_driver", Deaf())
    for file in files:
        granting.offer(file, 8, PIECE, None if file == "c" else Bitfield(8))
        for name in ("a", "b"):
            granting.want(file + name, file, 1, 0.0)
    wanting = granting._clients()
    for client in wanting:
        client.quiet = str(client.file.key) in quiet
    assert granting._goal(wanting) == ahead


class Deaf:
    """A driver that does nothing."""

    def grant(self, *args: object, **options: object) -> None: ...

    def send(self, *args: object) -> None: ...
