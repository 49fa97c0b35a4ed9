"""What a peer is sent of a file: whatever it asks for counts, and time gives it back."""

from __future__ import annotations

from itertools import cycle, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.model import FileId, PeerId
from p2pd.peer import budgets as module
from p2pd.peer.budgets import BASE, RECOVERS, TIMES, Budgets

A, B = PeerId("a" * 32), PeerId("b" * 32)
F, G = FileId("1" * 64), FileId("2" * 64)
SIZE = 10_000_000
WHOLE = BASE + TIMES * SIZE
RANGES = st.tuples(st.integers(0, SIZE // 2), st.integers(SIZE // 4, SIZE), st.floats(0, 1))


@pytest.mark.fault(15, 19)
@given(
    st.lists(st.tuples(st.integers(0, SIZE // 2), st.integers(SIZE // 4, SIZE), st.floats(0, 1)), min_size=1)
)
def test_overlapping_and_repeated_ranges_all_count(asked: list[tuple[int, int, float]]) -> None:
    budget = Budgets().of(A, "10.0.0.5", F, SIZE, 0.0)
    now, sent = 0.0, 0
    for offset, length, pause in islice(cycle(asked), 1000):
        now += pause
        if budget.left(now) > 0:
            count = min(length, SIZE - offset)
            budget.spend(count, now)
            sent += count
        assert sent <= WHOLE + SIZE + now * WHOLE / RECOVERS + 1000
    assert sent >= WHOLE


@pytest.mark.fault(15, 19)
def test_a_whole_file_many_times_over_and_again_after_a_while() -> None:
    budget = Budgets().of(A, "10.0.0.5", F, SIZE, 0.0)
    for _ in range(TIMES):
        assert budget.left(0.0) > 0
        budget.spend(SIZE, 0.0)
    assert budget.left(0.0) == BASE
    budget.spend(BASE, 0.0)
    assert budget.left(0.0) == 0
    assert budget.left(60.0) >= SIZE
    assert budget.left(RECOVERS) == WHOLE


@pytest.mark.fault(19)
def test_each_peer_has_its_own_for_each_file_and_finds_it_again() -> None:
    all_of_them = Budgets()
    all_of_them.of(A, "10.0.0.5", F, SIZE, 0.0).spend(WHOLE, 0.0)
    assert all_of_them.of(A, "10.0.0.5", F, SIZE, 0.0).left(0.0) == 0
    assert all_of_them.of(A, "10.0.0.5", G, SIZE, 0.0).left(0.0) == WHOLE
    assert all_of_them.of(B, "10.0.0.5", F, SIZE, 0.0).left(0.0) == WHOLE
    # An id alone can be claimed by anybody.
    assert all_of_them.of(A, "10.0.0.6", F, SIZE, 0.0).left(0.0) == WHOLE


@pytest.mark.fault(19)
def test_they_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    all_of_them = Budgets()
    all_of_them.of(A, "h", F, SIZE, 0.0).spend(1000, 0.0)
    for number in range(10):
        all_of_them.of(A, "h", F, SIZE, 0.0)
        all_of_them.of(B, f"h{number}", F, SIZE, 0.0)
    assert len(all_of_them._all) == 3
    assert all_of_them.of(A, "h", F, SIZE, 0.0).left(0.0) == WHOLE - 1000
