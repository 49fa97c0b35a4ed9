"""Who is in touch with whom, of very many."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2pd.fetch.neighbours import (
    ALL_BELOW,
    FIRST,
    MOST,
    PATIENCE,
    SETTLED,
    SWAP,
    WANTED,
    Neighbours,
    calls_first,
)
from p2pd.fetch.sources import USELESS
from tests.unit.fetch.test_transfer import field, make

MANY = range(1000)


def test_few_all_talk_to_all() -> None:
    assert Neighbours("x").choose(range(ALL_BELOW), [3], 0.0) == [n for n in range(ALL_BELOW) if n != 3]


def test_of_many_half_are_chosen_and_later_those_who_did_not_come() -> None:
    one = Neighbours("x")
    chosen = one.choose(MANY, [], 0.0)
    assert len(set(chosen)) == FIRST
    assert one.choose(MANY, chosen, SETTLED / 2) == []
    came = [*chosen, *(n for n in MANY if n not in chosen)][: FIRST + 4]
    later = one.choose(MANY, came, SETTLED)
    assert len(later) == WANTED - FIRST - 4
    assert not set(later) & set(came)


def test_who_was_asked_and_has_not_answered_counts() -> None:
    assert len(Neighbours("x").choose(MANY, [], 0.0, asked=FIRST - 2)) == 2


def test_while_nobody_asked_has_any_all_are_asked_in_the_end() -> None:
    one, asked = Neighbours("x"), set[int]()
    for _ in range(len(MANY) // FIRST):
        new = one.seek(MANY, asked, 0.0, 0, may_come=False)
        assert len(new) == FIRST
        assert not asked & set(new)
        asked |= set(new)
    assert asked == set(MANY)
    assert one.seek(MANY, asked, 9.0, 0, may_come=False) == []


def test_those_who_seek_it_too_have_a_second_to_find_some() -> None:
    one = Neighbours("x")
    asked = one.seek(MANY, [], 5.0, 0, may_come=False)
    assert one.seek(MANY, asked, 5.0 + PATIENCE / 2, 0, may_come=True) == []
    assert len(one.seek(MANY, asked, 5.0 + PATIENCE, 0, may_come=True)) == WANTED
    assert len(one.seek(MANY, asked, 5.1 + PATIENCE, 15, may_come=False)) == WANTED - 15


def test_of_few_all_are_asked_though_nobody_has_any() -> None:
    assert Neighbours("x").seek(range(9), [3, 4], 0.0, 2, may_come=True) == [0, 1, 2, 5, 6, 7, 8]


def test_others_choose_others() -> None:
    assert Neighbours("x").choose(MANY, [], 0.0) != Neighbours("y").choose(MANY, [], 0.0)


def test_who_asks_us_is_welcome_up_to_a_number() -> None:
    one = Neighbours("x")
    assert one.welcome(range(MOST - 1))
    assert not one.welcome(range(MOST))


def test_a_useless_neighbour_is_left_for_another() -> None:
    one = Neighbours("x")
    met = one.choose(MANY, [], 0.0)
    met += one.choose(MANY, met, SETTLED)
    useless = met[3:5]
    left = one.leave(MANY, useless, 20.0)
    assert left in useless
    met.remove(left)
    drawn = one.choose(MANY, met, 20.0)
    assert len(drawn) == 1
    assert drawn[0] != left
    assert drawn[0] not in met


def test_one_at_a_time_is_left_and_nobody_among_few() -> None:
    one = Neighbours("x")
    assert one.leave(MANY, [1, 2], 20.0) is not None
    assert one.leave(MANY, [1, 2], 20.0 + SWAP / 2) is None
    assert one.leave(MANY, [1, 2], 20.0 + SWAP) is not None
    assert one.leave(MANY, [], 40.0) is None
    assert one.leave(range(ALL_BELOW), [1, 2], 60.0) is None


def test_who_was_left_comes_again_when_all_were_tried() -> None:
    one = Neighbours("x")
    known = range(ALL_BELOW + 1)
    met: list[int] = []
    seen: set[int] = set()
    now = 0.0
    while seen != set(known):
        new = one.choose(known, met, now)
        assert len(met) + len(new) <= WANTED
        met += new
        seen.update(new)
        now += SETTLED
        left = one.leave(known, met, now)
        assert left is not None
        met.remove(left)
        assert now < 200, "everybody is tried"


def test_useless_is_a_partial_source_without_news() -> None:
    transfer, _ = make(3)
    transfer.add_source("part", "a", field("100"), 0.0)
    transfer.add_source("all", "b", None, 0.0)
    transfer.add_source("talks", "c", field("100"), 0.0)
    assert transfer.useless(USELESS) == []
    transfer.source_has("talks", 0b010, USELESS)
    assert transfer.useless(USELESS + 0.5) == ["part"]
    transfer.source_has("part", 0b100, USELESS + 0.6)
    assert transfer.useless(USELESS + 0.7) == []


IDS = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(IDS, IDS)
def test_one_of_two_calls(one: str, other: str) -> None:
    assert one == other or calls_first(one, other) != calls_first(other, one)


def test_each_calls_about_half_of_the_others() -> None:
    ids = [f"{random.Random(n).getrandbits(128):032x}" for n in range(100)]
    for one in ids:
        assert 25 < sum(calls_first(one, other) for other in ids if other != one) < 75


def test_who_is_known_by_an_address_only_is_called() -> None:
    assert calls_first("f" * 32, "10.0.0.1 7001")
