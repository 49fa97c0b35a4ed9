"""How long runs are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.fetch.runs import (
    LEAST_RUN,
    LEAST_SECONDS,
    MOST_LEAST,
    NAMED_LEAST,
    NAMED_RUN,
    PART_SECONDS,
    PARTS,
    SWARM_RUN,
    begun,
    of_swarm,
    to_name,
)
from p2pd.pieces import Bitfield


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
