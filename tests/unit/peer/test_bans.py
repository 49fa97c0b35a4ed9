"""Bans grow, are bounded, end by the clock that is given, and are each one peer's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.model import PeerId, PeerInfo
from p2pd.peer.bans import FIRST, LONGEST, Bans

ANNA = PeerInfo(PeerId("a" * 32), "anna", "127.0.0.1", 7001)
BERT = PeerInfo(PeerId("b" * 32), "bert", "127.0.0.1", 7002)


@pytest.mark.fault(47)
def test_a_ban_ends_and_the_next_one_is_longer_up_to_a_bound() -> None:
    bans, now, lengths = Bans(), 1000.0, []
    for _ in range(9):
        lengths.append(bans.ban(ANNA, now))
        assert bans.stands(ANNA.id, now)
        assert bans.stands(ANNA.id, now + lengths[-1] - 0.001)
        assert bans.ended(now + lengths[-1] - 0.001) == []
        now += lengths[-1]
        assert not bans.stands(ANNA.id, now)
        assert bans.ended(now) == [ANNA]
        assert bans.ended(now) == [], "told once"
        assert bans.careful(ANNA.id), "a ban that ended is no praise"
    assert lengths == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


@pytest.mark.fault(47)
def test_each_peer_has_its_own() -> None:
    bans = Bans()
    bans.ban(ANNA, 0.0)
    assert not bans.stands(BERT.id, 1.0)
    assert not bans.careful(BERT.id)
    bans.ban(BERT, 30.0)
    assert bans.standing(40.0) == [(ANNA, FIRST - 40), (BERT, FIRST - 10)]
    assert bans.ended(70.0) == [ANNA]
    assert bans.standing(70.0) == [(BERT, 20.0)]
    assert bans.any_ever


@pytest.mark.fault(47)
def test_a_right_piece_ends_the_care_but_not_the_memory() -> None:
    bans = Bans(10.0)
    bans.ban(ANNA, 0.0)
    bans.trust(ANNA.id)
    assert bans.careful(ANNA.id), "what came during the ban does not count"
    bans.ended(10.0)
    bans.trust(ANNA.id)
    assert not bans.careful(ANNA.id)
    assert bans.ban(ANNA, 11.0) == 20.0
    assert bans.careful(ANNA.id)


def test_a_second_fault_during_a_ban_does_not_prolong_it() -> None:
    bans = Bans(10.0)
    bans.ban(ANNA, 0.0)
    assert bans.ban(ANNA, 4.0) == 6.0
    assert not bans.stands(ANNA.id, 10.0)


@given(st.floats(1.0, 86_400.0), st.integers(1, 2000))
def test_bans_are_bounded_whatever_the_first_is(first: float, count: int) -> None:
    bans, now = Bans(first), 0.0
    for _ in range(count):
        length = bans.ban(ANNA, now)
        assert first - 1e-3 <= length <= max(LONGEST, first) + 1e-3
        now += length + 1
        bans.ended(now)
