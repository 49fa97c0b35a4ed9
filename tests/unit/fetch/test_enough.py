"""When a downloader has enough on its way."""

from __future__ import annotations

import pytest

from p2pd.fetch.enough import ENOUGH, LONG, MOST_LONG, RECALLED, Enough
from p2pd.fetch.picker import Run
from p2pd.fetch.sources import Get, Source


def source(name: str, *asked: float, rate: float = 1e6) -> Source:
    """One of which something was asked at these times."""
    one = Source(name, name, rate=rate, idle=False)
    for grant, at in enumerate(asked):
        one.gets[grant] = Get(grant, Run(grant, grant + 1), 1, 1, {grant}, False, at)
    return one


def test_a_few_requests_are_enough_whoever_they_are_of() -> None:
    enough = Enough("me")
    assert not enough.reached([source("a", *[0.0] * (ENOUGH - 1))], 0.1)
    assert enough.reached([source("a", *[0.0] * ENOUGH)], 0.1)
    assert enough.reached([source(name, 0.0) for name in "abcdef"[:ENOUGH]], 0.1)


@pytest.mark.fault(66)
def test_requests_that_take_too_long_do_not_count() -> None:
    trickling = [source(name, 0.0) for name in "abcdef"[:ENOUGH]]
    enough = Enough("me")
    assert enough.reached(trickling, MOST_LONG - 0.1), "nothing is known of how long they take"
    assert not enough.reached(trickling, MOST_LONG)
    enough.came(Get(0, Run(0, 1), 1, 0, set(), False, 20.0), 20.5)
    assert enough.reached(trickling, 0.5 * LONG - 0.1)
    assert not enough.reached(trickling, 0.5 * LONG)


@pytest.mark.fault(66)
def test_requests_to_slow_sources_are_not_enough() -> None:
    enough = Enough("me")
    fast = [source(name, 0.0, rate=9e6) for name in "abcdef"[:ENOUGH]]
    assert enough.reached(fast, 0.1)
    slow = [source(name, 0.0) for name in "abcdef"[:ENOUGH]]
    assert not enough.reached(slow, 0.2)
    # Of whom nothing is known as much is expected as of others.
    assert enough.reached([source(name, 0.0, rate=0.0) for name in "abcdef"[:ENOUGH]], 0.2)
    # And what came at best is forgotten.
    slow = [source(name, 99.9) for name in "abcdef"[:ENOUGH]]
    assert enough.reached(slow, 100.0)


def test_some_who_were_put_off_are_recalled_as_soon_as_it_is_not_enough() -> None:
    enough = Enough("me")
    sources = [source(f"p{number}") for number in range(RECALLED + 3)]
    for each in sources:
        each.put_off = True
    sources[0].idle = True  # it wants none there
    busy = source("busy", *[0.0] * ENOUGH)
    assert enough.recalled([*sources, busy], 0.1) == []
    del busy.gets[0]
    first = enough.recalled([*sources, busy], 0.1)
    assert len(first) == len({each.key for each in first}) == RECALLED
    second = enough.recalled([*sources, busy], 0.1)
    assert {each.key for each in first + second} == {each.key for each in sources[1:]}
    assert enough.recalled([*sources, busy], 0.1) == []
