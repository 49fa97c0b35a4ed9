"""A limit is kept over any stretch of time, and nothing is lost by it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.fetch.limiting import SMOOTH, Allowance
from p2pd.sizes import LEAST_RATE


@given(
    st.integers(LEAST_RATE, 10**10),
    st.lists(st.tuples(st.floats(0, 0.3), st.floats(0.01, 1)), min_size=1, max_size=300),
)
def test_no_stretch_of_time_has_more_than_its_share(rate: int, turns: list[tuple[float, float]]) -> None:
    allowance = Allowance()
    allowance.change(rate, 100.0)
    now, went = 100.0, []
    for pause, part in turns:
        now += pause
        now += allowance.wait(now)
        assert allowance.wait(now) == pytest.approx(0, abs=1e-6)
        step = max(1, int(allowance.step() * part))
        allowance.spend(step, now)
        went.append((now, step))
    for first in range(0, len(went), 17):
        total = sum(step for _, step in went[first:])
        span = went[-1][0] - went[first][0]
        # What may go at once, and the last step itself, come on top.
        assert total <= rate * (span + SMOOTH) + allowance.step() + 1


def test_who_always_has_more_gets_all_of_the_rate() -> None:
    allowance = Allowance()
    allowance.change(1_000_000, 0.0)
    now, total = 0.0, 0
    while now < 10.0:
        now += allowance.wait(now)
        allowance.spend(allowance.step(), now)
        total += allowance.step()
    assert total == pytest.approx(10_000_000, rel=0.02)


def test_a_pause_is_not_made_up_for() -> None:
    allowance = Allowance()
    allowance.change(1000, 0.0)
    allowance.spend(1, 1000.0)
    allowance.spend(1000, 1000.0)
    assert allowance.wait(1000.0) == pytest.approx(1.0, abs=0.1)


def test_without_a_limit_nobody_waits_and_nothing_is_remembered() -> None:
    allowance = Allowance()
    allowance.spend(10**12, 0.0)
    assert allowance.wait(0.0) == 0
    allowance.change(1000, 0.0)
    assert allowance.wait(0.0) == 0
    allowance.spend(10_000, 0.0)
    allowance.change(None, 1.0)
    assert allowance.wait(1.0) == 0
    allowance.change(1000, 1.0)
    assert allowance.wait(1.0) == 0, "what was owed at another rate is forgiven"


@pytest.mark.parametrize("rate", [0, -1])
def test_no_rate_at_all_is_none(rate: int) -> None:
    with pytest.raises(ValueError, match="bytes per second"):
        Allowance().change(rate, 0.0)
