"""Who is told when of which pieces: everybody of each once, and not by a message for each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.fetch.announcing import ALONG, EACH, GATHER, MOST, TOGETHER, USUAL_PIECE, Announcing

PIECE = 128 * 1024


def test_what_comes_within_a_moment_is_told_together() -> None:
    announcing = Announcing(PIECE)
    assert announcing.gained(5.0) == 0.0  # the first one is news for all
    assert announcing.gained(5.0) is None
    announcing.due(["a", "b"], 5.0)
    assert announcing.news("a", 0b11) == 0b11
    assert announcing.news("b", 0b11) == 0b11
    assert announcing.gained(5.02) == pytest.approx(5.0 + GATHER - 5.02)
    assert announcing.gained(5.03) is None
    announcing.due(["a", "b"], 5.1)
    assert announcing.gained(9.0) == 0.0  # long after the last time: at once


def test_the_more_are_told_the_longer_it_is_gathered_but_not_for_ever() -> None:
    for count in (20, 100_000):
        announcing = Announcing(PIECE)
        for listener in range(count):
            announcing.knows(listener, 0)
        announcing.due(range(count), 1.0)
        assert announcing.gained(1.0) == pytest.approx(min(EACH * count, MOST))


def test_once_under_way_as_many_pieces_are_told_together_as_it_takes_to_be_worth_it() -> None:
    slow, fast = Announcing(PIECE), Announcing(PIECE)
    listeners = range(10)
    for announcing, pieces in ((slow, 5), (fast, 50)):
        for listener in listeners:
            announcing.knows(listener, 0)
        announcing.due(listeners, 1.0)
        for _ in range(pieces):
            announcing.gained(1.5)
        announcing.due(listeners, 2.0)
    # A piece took 0.2 s and 0.02 s: two of them for ten who are told.
    assert slow.gained(2.0, begun=True) == pytest.approx(10 / TOGETHER * 0.2)
    assert fast.gained(2.0, begun=True) == pytest.approx(max(GATHER, 10 * EACH))
    slow.due(listeners, 2.5)
    assert slow.gained(2.5) == pytest.approx(max(GATHER, 10 * EACH))


def test_of_long_pieces_others_hear_sooner() -> None:
    announcing = Announcing(50 * USUAL_PIECE)
    announcing.due([], 1.0)
    assert announcing.gained(1.0) == pytest.approx(GATHER / 50)
    announcing.due([], 9.0)
    assert announcing.gained(9.0, begun=True) == pytest.approx(GATHER / 50)


def test_who_heard_with_something_else_is_not_told_again() -> None:
    announcing = Announcing(PIECE)
    announcing.knows("a", 0b1)
    assert announcing.news("a", 0b1) == 0
    assert announcing.news("a", 0b111) == 0b110
    assert announcing.news("a", 0b111) == 0
    assert announcing.news("b", 0b111) == 0b111


def test_once_under_way_a_few_pieces_do_not_go_along_with_something_else() -> None:
    announcing = Announcing(PIECE)
    announcing.knows("a", 0)
    announcing.gained(1.0)
    assert announcing.news("a", 0b1, along=True) == 0b1, "of the first pieces each is told at once"
    announcing.gained(1.0, count=9, begun=True)
    announcing.due(["a"], 1.5)  # ten were gathered
    assert announcing.news("a", 0x3FF) == 0x3FE
    few = int(10 * ALONG) - 1
    assert announcing.gained(1.6, count=few, begun=True) is not None
    held = 0x3FF | ((1 << few) - 1) << 10
    assert announcing.news("a", held, along=True) == 0
    announcing.gained(1.7, begun=True)
    assert announcing.news("a", held << 1 | 1, along=True) == held << 1 & ~0x3FF
    assert announcing.gained(1.8, begun=True) is None, "all hear of it when that is due"
    assert announcing.news("a", held << 2 | 3, along=True) == 0
    announcing.due(["a"], 2.0)
    assert announcing.news("a", held << 2 | 3).bit_count() == 1


def test_who_listens_no_longer_is_forgotten() -> None:
    announcing = Announcing(PIECE)
    announcing.knows("a", 0b1)
    announcing.due(["b"], 1.0)
    assert announcing.news("a", 0b1) == 0b1  # as one who is new


@given(st.lists(st.one_of(st.integers(0, 9), st.sampled_from("abc")), max_size=60))
def test_everybody_is_told_of_each_piece_once(events: list[int | str]) -> None:
    announcing = Announcing(PIECE)
    held = 0
    told = dict.fromkeys("abc", 0)
    for event in events:
        if isinstance(event, int):
            held |= 1 << event
        else:
            news = announcing.news(event, held)
            assert not news & told[event]
            told[event] |= news
            assert told[event] == held
