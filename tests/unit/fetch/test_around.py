"""Which neighbours of a piece are asked for with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.fetch.picker import Run, around


@pytest.mark.parametrize(
    ("have", "piece", "limit", "run"),
    [
        ("########", 5, 4, Run(4, 8)),  # the whole group
        ("########", 5, 7, Run(4, 8)),  # groups are powers of two, or they would not be the same for all
        ("########", 5, 1, Run(5, 6)),
        ("####.#.#", 5, 4, Run(5, 6)),
        ("#.##.##.", 2, 4, Run(2, 4)),
        ("#.##.##.", 3, 4, Run(2, 4)),
        ("...#####", 3, 4, Run(3, 4)),  # what follows is of another group
        ("#####...", 4, 4, Run(4, 5)),
    ],
)
def test_a_group_goes_on_together(have: str, piece: int, limit: int, run: Run) -> None:
    mask = sum(1 << i for i, mark in enumerate(have) if mark == "#")
    assert around(mask, piece, limit) == run


@given(st.integers(1, 2**80), st.integers(1, 100), st.data())
def test_it_is_neighbours_with_the_piece_among_them(among: int, limit: int, data: st.DataObject) -> None:
    piece = data.draw(st.sampled_from([i for i in range(among.bit_length()) if among >> i & 1]))
    run = around(among, piece, limit)
    assert run.first <= piece < run.end
    assert len(run) <= limit
    assert not run.mask & ~among
