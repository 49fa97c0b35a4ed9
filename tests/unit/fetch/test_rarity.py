"""Counts that stand across numbers, next to counts in a list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pd.fetch.rarity import Rarity

COUNT = 12
MASKS = st.integers(0, (1 << COUNT) - 1)


@given(st.lists(st.tuples(st.booleans(), MASKS), max_size=80), MASKS)
def test_it_counts_as_a_list_does(steps: list[tuple[bool, int]], among: int) -> None:
    rarity = Rarity(COUNT)
    counts = [0] * COUNT
    for more, mask in steps:
        (rarity.add if more else rarity.remove)(mask)
        for piece in range(COUNT):
            if mask >> piece & 1:
                counts[piece] = counts[piece] + 1 if more else max(counts[piece] - 1, 0)
    assert [rarity.count(piece) for piece in range(COUNT)] == counts
    for limit in range(max(counts) + 3):
        assert rarity.at_most(limit) == sum(1 << p for p in range(COUNT) if counts[p] <= limit)
    asked = [piece for piece in range(COUNT) if among >> piece & 1]
    least = min((counts[piece] for piece in asked), default=0)
    assert rarity.rarest(among) == sum(1 << piece for piece in asked if counts[piece] == least)


def test_what_is_beyond_its_pieces_is_not_counted() -> None:
    rarity = Rarity(3)
    rarity.add(0b11000)
    assert rarity.at_most(0) == 0b111
    assert rarity.rarest(0b111) == 0b111
