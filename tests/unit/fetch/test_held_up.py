"""What a transfer waits for, on links that there are not: no network, no disk, no waiting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.fetch.held_up import Account
from p2pd.fetch.picker import Run, SourceKey
from p2pd.fetch.probing import COST, OwnLink, Traffic
from p2pd.fetch.transfer import TICK, Transfer
from p2pd.pieces import Bitfield
from p2pd.status import Bound, HeldUp

PIECE = 65536
MB = 1_000_000
STEP = 0.05


class Links:
    """Sources that send at ``rates``, in bytes per second, through an own link of ``own``, shared fairly.

    What is wanted is granted at once; ``partial`` ones hold what :meth:`announce` says.
    """

    def __init__(
        self, rates: dict[SourceKey, float], own: float, *, pieces: int = 2000, partial: tuple[str, ...] = ()
    ) -> None:
        self.rates, self.own = rates, own
        self.now = 0.0
        self.ticked = 0.0
        self.limited = False
        self.transfer = Transfer(pieces * PIECE, PIECE, Bitfield(pieces), self)
        self.link = OwnLink(self._gauge, lambda: self.limited)
        self.account = Account(self.transfer, pieces * PIECE, PIECE, self.link, lambda: self.now)
        self._received = dict.fromkeys(rates, 0.0)
        self._wants: dict[SourceKey, int] = {}
        self._gets: dict[SourceKey, list[tuple[int, list[int]]]] = {key: [] for key in rates}
        self._left: dict[SourceKey, float] = dict.fromkeys(rates, 0.0)
        self._grant = 0
        for key in rates:
            self.transfer.add_source(key, str(key), Bitfield(pieces) if key in partial else None, 0.0)

    def _gauge(self) -> dict[SourceKey, Traffic]:
        return {key: Traffic(int(count), 0.001) for key, count in self._received.items()}

    # The Driver of the transfer

    def want(self, source: SourceKey, count: int, place: int, once: bool) -> None:
        self._wants[source] = count

    def get(self, source: SourceKey, grant: int, run: Run, duplicate: bool) -> None:
        self._gets[source].append((grant, list(run)))

    def cancel(self, source: SourceKey, grant: int) -> None:
        self._gets[source] = [get for get in self._gets[source] if get[0] != grant]

    def blame(self, source: SourceKey, piece: int) -> None:
        raise AssertionError("nothing wrong is sent")

    def trust(self, source: SourceKey) -> None:
        raise AssertionError("nobody was careful")

    # Time

    def announce(self, source: SourceKey, first: int, end: int) -> None:
        self.transfer.source_has(source, Run(first, end).mask, self.now)

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> Links:
        end = self.now + seconds
        while self.now < end - STEP / 2 and not self.transfer.done and not (until is not None and until()):
            self.now += STEP
            self._give()
            active = [key for key, gets in self._gets.items() if gets]
            room = self.own * STEP
            for rank, key in enumerate(sorted(active, key=self.rates.__getitem__)):
                count = min(self.rates[key] * STEP, room / (len(active) - rank))
                room -= count
                self._bring(key, count)
            if self.now - self.ticked > TICK - STEP / 2:
                self.ticked = self.now
                self.account.tick(self.now)
                self.transfer.tick(self.now)
        return self

    def _give(self) -> None:
        for key, count in self._wants.items():
            while len(self._gets[key]) < count:
                self._grant += 1
                if not self.transfer.granted(key, self._grant, 64 * PIECE, self.now):
                    self._wants[key] = 0
                    break

    def _bring(self, key: SourceKey, count: float) -> None:
        self._received[key] += count
        self._left[key] += count
        while self._gets[key] and self._left[key] >= PIECE:
            self._left[key] -= PIECE
            grant, pieces = self._gets[key][0]
            piece = pieces.pop(0)
            if not pieces:
                self._gets[key].pop(0)
            self.transfer.progressed(key, grant, PIECE, self.now)
            if self.transfer.piece_arrived(key, grant, piece, True, self.now):
                self.transfer.piece_written(piece)

    @property
    def waits(self) -> HeldUp:
        return self.account.seconds


def test_several_slow_sources_and_a_fast_link_of_its_own() -> None:
    links = Links({"a": MB, "b": MB, "c": MB, "d": MB}, 100 * MB).run(20)
    assert links.waits.by == "sources"
    assert links.waits.own_link == 0


def test_a_slow_link_of_its_own_and_fast_sources() -> None:
    links = Links({"a": 100 * MB, "b": 100 * MB, "c": 100 * MB}, 3 * MB).run(25)
    assert links.waits.by == "own_link"
    assert links.waits.sources == 0


def test_of_one_source_it_cannot_be_told() -> None:
    links = Links({"a": MB}, 100 * MB).run(20)
    waits = links.waits
    assert waits == HeldUp(unknown=waits.unknown)
    assert waits.unknown == pytest.approx(20, abs=0.5)


def test_a_probe_that_would_cost_too_much_of_a_short_transfer_is_not_made() -> None:
    links = Links({"a": MB, "b": MB}, 100 * MB, pieces=60).run(10)
    assert links.transfer.done
    assert links.waits.by == "unknown"


def test_an_own_link_that_becomes_free_is_noticed() -> None:
    links = Links({"a": MB, "b": MB, "c": MB}, 1.5 * MB, pieces=4000).run(30)
    assert links.waits.by == "own_link"
    links.own = 100 * MB
    before = links.waits.sources
    links.run(60)
    assert links.waits.sources > before + 20


def test_its_own_limit_is_known_at_once() -> None:
    links = Links({"a": MB}, MB)
    links.limited = True
    assert links.run(1).waits.by == "own_link"


def test_a_disk_that_stops_reading_is_what_limits_though_it_stops_it_for_a_part_only() -> None:
    links = Links({"a": MB, "b": MB}, 100 * MB)
    while links.now < 10:
        links.account.hold("disk")
        links.run(STEP)
        links.account.release("disk")
        links.run(2 * STEP)
    assert links.waits.by == "disk"
    assert links.waits.unknown < 1


def test_what_is_still_to_be_written_is_the_disk() -> None:
    links = Links({"a": MB}, 100 * MB, pieces=2)
    kept = links.transfer.piece_written
    links.transfer.piece_written = lambda piece: None  # type: ignore[method-assign]
    links.run(3)
    assert links.transfer.arrived
    before = links.waits.disk
    links.run(2)
    assert links.waits.disk == pytest.approx(before + 2, abs=0.3)
    for piece in range(2):
        kept(piece)
    assert links.transfer.done


def test_bringing_it_to_the_disk_counts_until_it_has_its_name() -> None:
    links = Links({"a": 10 * MB}, 100 * MB, pieces=10).run(5)
    assert links.transfer.done
    links.account.finishing(links.now)
    links.account.tick(links.now + 3)
    links.account.ended(links.now + 4)
    assert links.waits.disk == pytest.approx(4, abs=0.01)


def test_what_only_the_owner_has_is_waited_for_at_the_owners() -> None:
    links = Links({"owner": MB, "p": 50 * MB, "q": 50 * MB}, 100 * MB, partial=("p", "q"))
    links.run(20)
    assert links.waits.by == "owner"
    assert links.waits.own_link == links.waits.sources == 0


def swarm(seconds: int, mine: float, theirs: float, owner: float = 0.0) -> Links:
    """Two others, who hold the second half of what this peer lacks, and get the first one."""
    links = Links({"owner": owner or mine, "p": 50 * MB, "q": 50 * MB}, mine, partial=("p", "q"), pieces=8000)
    for peer in "pq":
        links.announce(peer, 4000, 7999)
    for number in range(seconds):
        links.run(1)
        done = int(theirs / PIECE)
        for peer in "pq":
            links.announce(peer, number * done, (number + 1) * done)
    return links


def test_in_a_swarm_whoever_is_slower_than_the_others_has_a_slow_link() -> None:
    links = swarm(20, mine=2 * MB, theirs=6 * MB)
    assert links.waits.by == "own_link"
    assert links.waits.sources == 0


def test_in_a_swarm_in_which_all_are_as_fast_it_cannot_be_told() -> None:
    links = swarm(20, mine=4 * MB, theirs=4 * MB)
    assert links.waits.by == "unknown"
    assert links.waits.own_link == links.waits.sources == 0


def test_in_a_swarm_an_own_link_that_was_faster_before_is_not_what_limits() -> None:
    links = swarm(6, mine=8 * MB, theirs=4 * MB)
    links.rates.update(dict.fromkeys(links.rates, 0.5 * MB))
    links.run(30)
    assert links.waits.by == "sources"
    assert links.waits.own_link == 0


def test_the_bound_of_a_swarm_is_by_the_best_rates_seen() -> None:
    links = Links({"owner": 2 * MB, "p": 50 * MB}, 100 * MB, partial=("p",), pieces=600)
    at = 0
    while not links.transfer.done and at < 600:
        # The other one passes on what it got, a little later.
        at = min(at + 15, 600)
        links.run(1)
        links.announce("p", at - 15, at)
    links.run(30)
    assert links.transfer.done
    links.account.finishing(links.now)
    bound = links.account.bound
    assert bound is not None
    assert bound.peers == 2
    told = bound.to_json()
    assert told is not None
    # The owner sends 2 MB per second of a file of 39 MB, which half of the time the other one brings.
    assert told["terms"].keys() == {"down", "owner", "all"}
    assert 1 <= told["ratio"] < 1.6
    assert told["seconds"] == max(told["terms"].values()) <= told["took"] <= round(links.now, 3)


def test_there_is_no_bound_without_a_swarm_nor_of_what_was_too_short_to_see() -> None:
    alone = Links({"a": MB, "b": MB}, 100 * MB).run(10)
    assert alone.account.bound is None
    short = Links({"a": 2 * MB, "p": MB}, 100 * MB, partial=("p",), pieces=20).run(2)
    assert short.transfer.done
    short.account.finishing(short.now)
    bound = short.account.bound
    assert bound == Bound(None, None, None, short.now, 2)
    assert bound is not None
    assert bound.to_json() is None


@settings(max_examples=100)
@given(
    rates=st.lists(st.floats(0.3, 3), min_size=1, max_size=7),
    part=st.one_of(st.floats(0.3, 0.6), st.floats(1.3, 5)),
)
def test_the_wrong_link_is_never_named(rates: list[float], part: float) -> None:
    """A link of its own that is clearly less, or clearly more, than what the sources send together."""
    own = sum(rates) * MB * part
    links = Links({f"s{i}": rate * MB for i, rate in enumerate(rates)}, own, pieces=3000).run(40)
    wrong = links.waits.sources if part < 1 else links.waits.own_link
    assert wrong == 0
    assert not any(source.aside for source in links.transfer.sources.values() if links.link.probing is None)


@settings(max_examples=30)
@given(st.lists(st.floats(0.3, 3), min_size=2, max_size=6))
def test_probing_costs_no_more_than_it_may(rates: list[float]) -> None:
    sources: dict[SourceKey, float] = {f"s{i}": rate * MB for i, rate in enumerate(rates)}
    probed, plain = (Links(dict(sources), 1000 * MB, pieces=1500) for _ in range(2))
    plain.link.probing = probed.account._probe  # somebody else's turn, for ever
    for links in (probed, plain):
        links.run(1000)
        assert links.transfer.done
    assert probed.now <= plain.now * (1 + COST) + 2 * TICK


events = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.sampled_from([0.05, 0.3, 2.0, 9.0])),
        st.tuples(st.sampled_from(["hold", "release", "pause", "resume", "limit", "finish"]), st.just(0.0)),
        st.tuples(st.sampled_from(["drop", "announce"]), st.sampled_from([0.0, 1.0, 2.0])),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(events, st.booleans())
def test_whatever_happens_every_moment_counts_once_and_nobody_rests_for_ever(
    script: list[tuple[str, float]], with_others: bool
) -> None:
    partial = ("s1", "s2") if with_others else ()
    links = Links({"s0": MB, "s1": MB, "s2": 2 * MB, "s3": MB}, 3 * MB, partial=partial, pieces=900)
    finished = False
    for what, number in script:
        if what == "run":
            links.run(number)
        elif what == "hold":
            links.account.hold("disk")
        elif what == "release":
            links.account.release("disk")
        elif what == "pause":
            links.transfer.pause()
        elif what == "resume":
            links.transfer.resume(links.now)
        elif what == "limit":
            links.limited = not links.limited
        elif what == "finish" and not finished and links.transfer.done:
            finished = True
            links.account.finishing(links.now)
        elif what == "drop":
            links._gets[f"s{number:.0f}"].clear()
            links.transfer.remove_source(f"s{number:.0f}", links.now)
            links._wants.pop(f"s{number:.0f}", None)
        elif what == "announce" and f"s{number:.0f}" in links.transfer.sources:
            links.announce(f"s{number:.0f}", 0, int(links.now * 10) % 900)
        waits = links.waits
        seconds = [waits.own_link, waits.sources, waits.disk, waits.owner, waits.unknown]
        assert min(seconds) >= 0
        assert sum(seconds) <= links.now + 1e-6
    links.account.ended(links.now)
    assert links.link.probing is None
    assert not any(source.aside for source in links.transfer.sources.values())
