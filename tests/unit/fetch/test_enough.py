"""When a downloader has enough on its way."""

from __future__ import annotations

import pytest

from p2pd.fetch.enough import FIRST_LONG, LONG, MOST_LONG, RECALLED, Enough
from p2pd.fetch.picker import Run
from p2pd.fetch.runs import LONG_AT_ONCE
from p2pd.fetch.sources import Get, Source


def source(name: str, *asked: float, rate: float = 1e6) -> Source:
    """One of which something was asked at these times."""
    one = Source(name, name, rate=rate, idle=False)
    for grant, at in enumerate(asked):
        one.gets[grant] = Get(grant, Run(grant, grant + 1), 1, 1, {grant}, False, at)
    return one


def test_a_few_requests_are_enough_whoever_they_are_of() -> None:
    enough = Enough("me")
    assert not enough.reached([source("a", *[0.0] * (LONG_AT_ONCE - 1))], 0.1)
    assert enough.reached([source("a", *[0.0] * LONG_AT_ONCE)], 0.1)
    assert enough.reached([source(name, 0.0) for name in "abcdef"[:LONG_AT_ONCE]], 0.1)


@pytest.mark.fault(66)
def test_requests_that_take_too_long_do_not_count() -> None:
    trickling = [source(name, 0.0) for name in "abcdef"[:LONG_AT_ONCE]]
    enough = Enough("me")
    assert enough.reached(trickling, FIRST_LONG - 0.1), "nothing is known of how long they take"
    assert not enough.reached(trickling, FIRST_LONG)
    enough.came(Get(0, Run(0, 1), 1, 0, set(), False, 20.0), 20.5)
    assert enough.reached(trickling, 0.5 * LONG - 0.1)
    assert not enough.reached(trickling, 0.5 * LONG)


@pytest.mark.fault(66)
def test_requests_to_slow_sources_are_not_enough() -> None:
    enough = Enough("me")
    fast = [source(name, 0.0, rate=9e6) for name in "abcdef"[:LONG_AT_ONCE]]
    assert enough.reached(fast, 0.1)
    slow = [source(name, 0.0) for name in "abcdef"[:LONG_AT_ONCE]]
    assert not enough.reached(slow, 0.2)
    # Of whom nothing is known as much is expected as of others.
    assert enough.reached([source(name, 0.0, rate=0.0) for name in "abcdef"[:LONG_AT_ONCE]], 0.2)
    # And what came at best is forgotten.
    slow = [source(name, 99.9) for name in "abcdef"[:LONG_AT_ONCE]]
    assert enough.reached(slow, 100.0)


def test_some_who_were_put_off_are_recalled_by_lot() -> None:
    enough = Enough("me")
    put_off = [source(f"p{number}") for number in range(RECALLED + 3)]
    for each in put_off:
        each.put_off = True
    first = enough.recalled(put_off)
    assert len(first) == len({each.key for each in first}) == RECALLED
    rest = [each for each in put_off if each.put_off]
    assert {each.key for each in rest}.isdisjoint(each.key for each in first)
    second = enough.recalled(rest)
    assert {each.key for each in second} == {each.key for each in rest}
    assert not any(each.put_off for each in put_off)
    assert Enough("another").recalled(put_off) != first


def test_requests_that_usually_take_long_count_as_long() -> None:
    enough = Enough("me")
    enough.came(Get(0, Run(0, 1), 1, 0, set(), False, 0.0), 2 * FIRST_LONG)
    slow = [source(name, 100.0) for name in "abcdef"[:LONG_AT_ONCE]]
    assert enough.reached(slow, 100.0 + 3 * FIRST_LONG)
    assert not enough.reached(slow, 100.0 + MOST_LONG)
