"""Whether somebody else is asked for one of the last pieces: numbers in, seconds out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.fetch.endgame import ALIKE, GAIN, PATIENCE, Asked, gain
from p2pd.fetch.picker import Run
from p2pd.fetch.sources import Get, Source

PIECE = 64 * 1024 * 1024
NOW = 100.0


def source(name: str, rate: float, *, heard: float = NOW) -> Source:
    return Source(name, name, heard=heard, rate=rate, proved=True)


def on(one: Source, piece: int, left: int = PIECE, asked: float = NOW) -> Get:
    get = Get(piece, Run(piece, piece + 1), PIECE, left, {piece}, False, asked)
    one.gets[piece] = get
    return get


def asking(slow: Source, fast: Source, **more: Any) -> float:
    given: dict[str, Any] = {"waited": 0.5, "coming": slow.rate, "beside": 0.0} | more
    return gain(fast, PIECE, [(slow, slow.gets[0])], NOW, **given)


def test_who_is_so_much_faster_is_asked() -> None:
    slow = source("slow", 1e6)
    on(slow, 0)
    assert asking(slow, source("fast", 1e6 * GAIN * 1.01)) == PIECE / 1e6
    assert asking(slow, source("fast", 1e6 * GAIN * 0.99)) == 0


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_each_time_that_a_piece_was_taken_the_next_needs_twice_the_gain(taken: int) -> None:
    slow = source("slow", 1e6)
    on(slow, 0)
    needed = 1e6 * GAIN * 2**taken
    assert asking(slow, source("fast", needed * 0.99), taken=taken) == 0
    assert asking(slow, source("fast", needed * 1.01), taken=taken) > 0


def test_where_more_comes_of_others_than_one_more_could_hurry_nobody_is_asked() -> None:
    slow = source("slow", 1e6)
    on(slow, 0)
    fast = source("fast", 1e8)
    assert asking(slow, fast, beside=PIECE / 1e6 / GAIN * 1.01) == 0
    assert asking(slow, fast, beside=PIECE / 1e6 / GAIN * 0.99) > 0


def slowest(asked: Asked, one: Source, among: list[Source]) -> int | None:
    return asked.slowest(one, among, lambda piece: True, lambda piece: PIECE, NOW)


def test_of_a_full_link_no_piece_is_taken_for_another_source() -> None:
    asked = Asked()
    busy = [source(f"p{number}", 1e6) for number in range(8)]
    for number, each in enumerate(busy):
        asked.add(each, on(each, number))
    idle = source("idle", 3e6)
    assert slowest(asked, idle, [*busy, idle]) is None
    # The same one where it is all that is missing.
    alone = Asked()
    alone.add(busy[0], busy[0].gets[0])
    assert slowest(alone, idle, [busy[0], idle]) == 0


@pytest.mark.fault(66)
@pytest.mark.parametrize("hangs", [False, True])
def test_slow_and_silent_sources_do_not_make_a_full_link(hangs: bool) -> None:
    """However many there are, whoever is fast is asked for what they are on."""
    asked = Asked()
    heard = NOW - 2 * PATIENCE if hangs else NOW
    busy = [source(f"p{number}", 1e6 if hangs else 1e8 / ALIKE / 10, heard=heard) for number in range(8)]
    for number, each in enumerate(busy):
        asked.add(each, on(each, number, asked=NOW - 2 * PATIENCE))
    fast = source("fast", 1e8)
    assert slowest(asked, fast, [*busy, fast]) is not None
    new = source("new", 0.0)
    assert hangs or slowest(asked, new, [*busy, new]) is not None, "it cannot be said that the link is full"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1e6, 2e7, 5e7, 1e8]),
            st.integers(0, 3),
            st.floats(0, 6),
            st.floats(0, 1),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([0.0, 1e5, 1e7, 1e9]),
)  # fmt: skip
def test_what_is_not_late_nobody_is_asked_for_besides(
    busy: list[tuple[float, int, float, float]], rate: float
) -> None:  # fmt: skip
    """To look at the late pieces only changes nothing."""
    asked = Asked()
    sources = [source(f"p{number}", each[0], heard=NOW - each[2] / 4) for number, each in enumerate(busy)]
    for one, (_, piece, ago, left) in zip(sources, busy, strict=True):
        asked.add(one, on(one, piece, max(1, int(PIECE * left)), asked=NOW - ago))
    fast = source("fast", rate)

    def best(late: list[int] | None) -> int | None:
        return asked.slowest(fast, [*sources, fast], lambda _: True, lambda _: PIECE, NOW, late=late)

    everything = [piece for piece in range(4) if piece in asked]
    assert best(None) == best(sorted(asked.late(NOW), key=list(asked._of).index)) == best(
        sorted(everything, key=list(asked._of).index)
    )  # fmt: skip
