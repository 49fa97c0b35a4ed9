"""How long runs are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.fetch.runs import (
    FEW_AT_ONCE,
    HUNDREDS,
    LEAST_RUN,
    LEAST_SECONDS,
    LONG_AT_ONCE,
    MOST_LEAST,
    NAMED_LEAST,
    NAMED_RUN,
    PART_SECONDS,
    PARTS,
    SWARM_RUN,
    WHOLE_AT_ONCE,
    begun,
    long_at_once,
    of_swarm,
    to_name,
    whole_at_once,
)
from p2pd.pieces import Bitfield


@pytest.mark.parametrize(
    ("count", "peers", "expected"),
    [
        (1, 0, LONG_AT_ONCE),
        (1, 1, LONG_AT_ONCE),
        (1, 2, FEW_AT_ONCE),
        (100, 64, LONG_AT_ONCE),  # 6 steps
        (100, 128, FEW_AT_ONCE),
        (200, 1_000, LONG_AT_ONCE),
        (100, 10_000, FEW_AT_ONCE),
    ],
)
def test_of_few_long_pieces_for_many_fewer_are_under_way_at_once(
    count: int, peers: int, expected: int
) -> None:
    assert long_at_once(count, peers) == expected


@pytest.mark.parametrize(
    ("count", "peers", "expected"),
    [
        (100, 10_000, FEW_AT_ONCE),
        (1, HUNDREDS, FEW_AT_ONCE),
        (1, HUNDREDS - 1, WHOLE_AT_ONCE),  # few slow ones would not fill its link
        (200, 1_000, WHOLE_AT_ONCE),
    ],
)
def test_of_few_long_pieces_who_has_all_sends_fewer_only_to_very_many(
    count: int, peers: int, expected: int
) -> None:
    assert whole_at_once(count, peers) == expected


@given(st.floats(0, 1e10), st.integers(0, 2**50))
def test_runs_of_a_swarm_do_not_become_short_where_it_is_slow(rate: float, size: int) -> None:
    """Short ones cost more of the processor, which may be why it is slow."""
    run = of_swarm(rate, size)
    least = max(LEAST_RUN, min(size // PARTS, MOST_LEAST))
    assert run >= int(rate * SWARM_RUN)
    assert run >= least or run >= int(rate * PART_SECONDS), "but where a run would take long"
    assert run <= max(least, int(rate * SWARM_RUN))
    assert run <= max(rate * LEAST_SECONDS, rate * SWARM_RUN)


@given(st.floats(0, 1e10))
def test_what_is_named_is_short_and_not_of_a_slow_one_shorter_than_need_be(rate: float) -> None:
    run = to_name(rate)
    assert run >= int(rate * NAMED_RUN)
    assert run >= min(NAMED_LEAST, int(rate * LEAST_SECONDS))
    assert run <= max(NAMED_LEAST, rate * NAMED_RUN)
    assert run <= of_swarm(rate, 2**50)


@pytest.mark.parametrize(("count", "held"), [(1, 1), (5, 1), (128, 7), (160, 8), (800, 8), (2048, 21)])
def test_a_transfer_is_under_way_with_a_twentieth_or_some_pieces_of_many(count: int, held: int) -> None:
    assert begun(Bitfield.of(count, range(held)))
    assert not begun(Bitfield.of(count, range(held - 1)))
