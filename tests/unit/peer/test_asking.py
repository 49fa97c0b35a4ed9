"""Whom a `req` goes to where very many are here: some, those who ask us, and another for one of no use."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, fail, succeed

from p2pd.errors import UnreachableError
from p2pd.fetch.neighbours import ALL_BELOW, FIRST, PATIENCE, SETTLED, SWAP, WANTED, Neighbours
from p2pd.model import FileId, Offer, PeerId, PeerInfo
from p2pd.peer.asking import SILENT, Asking
from p2pd.peer.offers import WITHOUT, Offers

OFFER = Offer("f", 10, 5, FileId("ab" * 32))


@attrs.define(eq=False)
class Other:
    """A peer and the conversation with it, as far as asking knows of them."""

    info: PeerInfo
    asks: bool = False
    asked: int = 0
    withdrawn: int = 0
    ended: bool = False

    @property
    def fetching(self) -> Other:
        return self

    @property
    def link(self) -> Other:
        return self

    def asks_for(self, name: str) -> bool:
        return self.asks

    def ask(self, name: str, asker: Any, piece_size: int = 0) -> int:
        self.asked += 1
        return self.asked

    def withdraw(self, number: int) -> None:
        self.withdrawn += 1


class Many:
    """So many peers, and one that asks them."""

    def __init__(self, count: int) -> None:
        self.others = {
            PeerId(f"{i:032x}"): Other(PeerInfo(PeerId(f"{i:032x}"), f"p{i}", "10.0.0.1", 1 + i))
            for i in range(count)
        }
        self.useless: list[Other] = []
        self.dialled: list[PeerId] = []
        self.offers = Offers(0.0)
        self.left: list[Other] = []
        self.found = False
        self.asking = Asking(
            "f", self, self.offers,  # type: ignore[arg-type]
            allowed=lambda info: True, offered=lambda *args: None, left=self.left.append,  # type: ignore[arg-type]
            answered=lambda: None, useless=lambda now: self.useless,  # type: ignore[arg-type,return-value]
            found=lambda: self.found, neighbours=Neighbours("x"),
        )  # fmt: skip

    def active(self) -> list[PeerInfo]:
        return [other.info for other in self.others.values()]

    def with_peer(self, peer: PeerId) -> Other:
        return self.others[peer]

    def reach(self, info: PeerInfo) -> Deferred[Other]:
        self.dialled.append(info.id)
        return succeed(self.others[info.id])

    def now(self) -> float:
        return 0.0

    def calls_first(self, peer: PeerId) -> bool:
        return int(peer, 16) % 2 == 0

    @property
    def asked(self) -> set[PeerId]:
        return {peer for peer, other in self.others.items() if other.asked > other.withdrawn}

    def sweep(self, now: float) -> None:
        """And all answer that they have some."""
        self.asking.sweep(now)
        for peer in self.asked:
            self.asking.offered(self.others[peer], OFFER, None)  # type: ignore[arg-type]
            self.found = True

    def sweep_in_vain(self, now: float) -> None:
        """And all whom it asks answer that they have none."""
        before = self.asked
        self.asking.sweep(now)
        for peer in self.asked - before:
            self.asking.not_have(self.others[peer])  # type: ignore[arg-type]


def test_few_are_asked_first_and_more_where_they_do_not_come_by_themselves() -> None:
    many = Many(200)
    many.sweep(0.0)
    assert len(many.asked) == FIRST
    many.sweep(SETTLED / 2)
    assert len(many.asked) == FIRST
    many.sweep(SETTLED)
    assert len(many.asked) == WANTED
    many.sweep(SETTLED * 9)
    assert len(many.asked) == WANTED


def test_all_are_asked_before_nobody_has_it_though_those_asked_seek_it_too() -> None:
    many = Many(200)
    many.offers.roster_known = True
    now = 0.0
    while len(many.asked) < 200:
        before = len(many.asked)
        many.sweep_in_vain(now)
        assert len(many.asked) > before
        for peer in many.asked:
            many.others[peer].asks = True
        assert many.offers.closed(now) == (len(many.asked) == 200)
        if len(many.asked) < 200:
            before = len(many.asked)
            many.sweep_in_vain(now + PATIENCE / 2)
            assert len(many.asked) == before, "they may have some soon"
            assert not many.offers.closed(now + PATIENCE / 2)
        now += PATIENCE
    assert now > WITHOUT


@pytest.mark.parametrize("silent", [0, 120])
def test_who_is_asked_last_has_his_time_too(silent: int) -> None:
    many = Many(200)
    many.offers.roster_known = True
    never = sorted(many.others)[:silent]
    now = 0.0
    while len(many.asked) < 200:
        before = many.asked
        many.asking.sweep(now)
        assert not many.offers.closed(now), f"{len(many.asked - before)} were asked this moment"
        if len(many.asked) < 200:
            for peer in (many.asked - before).difference(never):
                many.asking.not_have(many.others[peer])  # type: ignore[arg-type]
                many.others[peer].asks = True
            assert not many.offers.closed(now)
        now += 0.1
    assert now > WITHOUT
    many.asking.sweep(now)
    assert not many.offers.closed(now - 0.1 + WITHOUT * 0.9)
    many.asking.sweep(now - 0.1 + WITHOUT * 0.9)
    assert many.offers.closed(now + WITHOUT)


def test_those_who_went_while_they_are_dialled_do_not_count_for_others_who_were_not_asked() -> None:
    many = Many(130)
    many.offers.roster_known = True
    for step in range(5):
        many.sweep_in_vain(step * PATIENCE)
        for peer in many.asked:
            many.others[peer].asks = True
    here = [other.info for peer, other in many.others.items() if peer not in sorted(many.asked)[:75]]
    assert ALL_BELOW < len(here) < len(many.asked)
    many.active = lambda: here  # type: ignore[method-assign]
    many.asking.sweep(4.5 * PATIENCE)
    assert not many.offers.closed(4.5 * PATIENCE)


def test_who_does_not_answer_keeps_nobody_from_being_asked() -> None:
    many = Many(200)
    many.asking.sweep(0.0)
    many.asking.sweep(SILENT - 0.1)
    assert len(many.asked) == WANTED
    many.asking.sweep(SILENT)
    assert len(many.asked) == FIRST + WANTED
    assert not many.offers.closed(SILENT)


def test_once_somebody_has_it_no_more_are_asked_than_are_wanted() -> None:
    many = Many(200)
    many.sweep_in_vain(0.0)
    many.sweep(SETTLED)
    assert len(many.asked) == FIRST + WANTED
    many.sweep(SETTLED + 9)
    assert len(many.asked) == FIRST + WANTED


def test_how_many_there_are_is_told() -> None:
    many = Many(200)
    assert many.asking.here == 0
    many.sweep(0.0)
    assert many.asking.here == 200
    many.others.popitem()
    many.asking.sweep(1.0)
    assert many.asking.here == 199


def test_who_asks_is_asked_too() -> None:
    many = Many(200)
    many.sweep(0.0)
    stranger = next(peer for peer in many.others if peer not in many.asked)
    many.others[stranger].asks = True
    many.sweep(0.1)
    assert stranger in many.asked
    assert len(many.asked) == FIRST + 1


def test_one_of_no_use_is_left_for_another_though_it_asks() -> None:
    many = Many(200)
    many.sweep(0.0)
    many.sweep(SETTLED)
    before = many.asked
    dull = many.others[next(iter(before))]
    dull.asks = True
    many.useless = [dull]
    many.sweep(SETTLED + SWAP)
    many.useless = []
    assert many.left == [dull]
    assert dull.info.id not in many.asked
    assert len(many.asked) == WANTED
    assert len(many.asked - before) == 1
    many.sweep(SETTLED + 2 * SWAP)
    assert dull.info.id not in many.asked


def test_of_few_all_are_asked_and_none_is_left() -> None:
    many = Many(40)
    many.sweep(0.0)
    assert len(many.asked) == 40
    many.useless = [many.others[next(iter(many.asked))]]
    many.sweep(100.0)
    assert many.left == []
    assert len(many.asked) == 40


def test_those_who_are_to_be_called_come_before_those_who_call() -> None:
    many = Many(40)
    many.sweep(0.0)
    assert sorted(many.dialled) == sorted(many.others)
    first = [many.calls_first(peer) for peer in many.dialled]
    assert first == sorted(first, reverse=True)


def test_nobody_is_dialled_once_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    many = Many(10)
    dialled: list[PeerId] = []

    def reach(info: PeerInfo) -> Deferred[Other]:
        dialled.append(info.id)
        many.asking.stop()
        return fail(UnreachableError("nobody is there"))

    monkeypatch.setattr(many, "reach", reach)
    many.asking.sweep(0.0)
    assert len(dialled) == 1


def test_not_everybody_calls_the_same_one_first() -> None:
    orders = set()
    for _ in range(3):
        many = Many(40)
        many.sweep(0.0)
        orders.add(tuple(many.dialled))
    assert len(orders) > 1


def test_who_is_lost_before_he_answers_is_dialled_once_more_before_that_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = Many(1)
    monkeypatch.setattr(many, "with_peer", lambda peer: None)
    (other,) = many.others.values()
    offers = many.offers
    offers.roster_known = True
    many.asking.sweep(0.0)
    many.asking.lost(other)  # type: ignore[arg-type]
    assert not offers.closed(0.1)
    many.asking.sweep(1.0)
    assert other.asked == 2
    many.asking.lost(other)  # type: ignore[arg-type]
    assert offers.closed(1.0)
