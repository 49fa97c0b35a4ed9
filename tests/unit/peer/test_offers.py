"""When offers close, and what they mean."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs

from p2pd.model import FileId, Offer, PeerId
from p2pd.peer.bans import Bans
from p2pd.peer.choosing import Choosing, Verdict
from p2pd.peer.offers import AFTER_FIRST, WITHOUT, Offers

A, B, C = PeerId("a" * 32), PeerId("b" * 32), PeerId("c" * 32)
ONE = Offer("f", 10, 65536, FileId("1" * 64))
TWO = Offer("f", 10, 65536, FileId("2" * 64))


def offers(*peers: PeerId) -> Offers:
    made = Offers(0.0)
    made.roster_known = True
    for peer in peers:
        made.asked(peer, peer[0], 0.0)
    return made


def test_they_close_when_all_have_answered() -> None:
    made = offers(A, B)
    made.have(A, ONE, 0.1)
    assert not made.closed(0.1)
    made.not_have(B)
    assert made.closed(0.2)


def test_they_close_a_second_after_the_first_one() -> None:
    made = offers(A, B)
    made.have(A, ONE, 2.0)
    assert not made.closed(2.0 + AFTER_FIRST - 0.01)
    assert made.closed(2.0 + AFTER_FIRST)


def test_another_content_than_the_one_that_was_asked_for_hurries_nobody() -> None:
    made = offers(A, B)
    other = SimpleNamespace(id=A, name="a", host="h", port=1)
    source: Any = SimpleNamespace(link=SimpleNamespace(other=other))
    choosing = Choosing(made, Bans(10.0), TWO.file_id, settled=False)
    assert choosing.judge(source, ONE, None, 0.1) is Verdict.IGNORE
    assert not made.closed(0.1 + AFTER_FIRST), "the other one may have it"
    assert choosing.judge(source, TWO, None, 2.0) is Verdict.USE
    assert not made.closed(2.0 + AFTER_FIRST * 0.9)
    assert made.closed(2.0 + AFTER_FIRST)


def test_they_close_without_one() -> None:
    made = offers(A)
    assert not made.closed(WITHOUT - 0.01)
    assert made.closed(WITHOUT)


def test_they_wait_for_who_is_here_to_be_known() -> None:
    made = Offers(0.0)
    assert not made.closed(1.0)
    made.roster_known = True
    assert made.closed(1.1)


def test_who_hashes_is_waited_for_while_it_makes_progress() -> None:
    made = offers(A)
    made.hashing(A, 100, 1.0)
    assert not made.closed(5.9)
    made.hashing(A, 200, 5.9)
    assert not made.closed(10.0)
    made.hashing(A, 200, 10.0)
    assert made.closed(5.9 + WITHOUT)


def test_who_hashes_anew_at_our_piece_size_may_have_another_content() -> None:
    made = offers(A, B)
    made.have(A, ONE, 0.0)
    made.have(B, TWO, 0.1)
    made.reoffering(B, 0.1)
    assert not made.closed(AFTER_FIRST + 1)
    assert set(made.by_id()) == {ONE.file_id}
    made.have(B, TWO, 2.0)
    assert made.closed(2.0)
    assert set(made.by_id()) == {ONE.file_id, TWO.file_id}


def test_those_not_reached_are_counted() -> None:
    made = offers(A, B, C)
    made.unreachable(A)
    made.not_have(B)
    made.unreachable(B)
    made.not_have(C)
    assert made.unheard == " (1 of 3 peers could not be reached)"
    assert made.closed(0.0)


def test_variants_list_every_content_with_its_holders() -> None:
    made = offers(A, B, C)
    made.have(A, ONE, 0.0)
    made.have(B, TWO, 0.0)
    made.have(C, TWO, 0.0)
    assert made.variants() == [
        {"id": TWO.file_id, "size": 10, "holders": ["b", "c"]},
        {"id": ONE.file_id, "size": 10, "holders": ["a"]},
    ]


def test_a_claimed_size_of_exabytes_does_not_keep_the_offers_open() -> None:
    made = offers(A, B, C)
    made.have(A, ONE, 0.0)
    made.have(B, attrs.evolve(ONE, size=2**63 - 1, piece_size=2**62), 0.0)
    now, done = 0.0, 0
    while not made.closed(now) and now < 1000:
        now, done = now + 4, done + 1
        made.hashing(C, done, now)
    assert now < 100


def test_those_who_said_nothing_are_counted_too() -> None:
    made = offers(A, B, C)
    made.not_have(A)
    made.unreachable(B)
    assert made.closed(WITHOUT)
    assert made.unheard == " (1 of 3 peers could not be reached, 1 of 3 did not answer in time)"


def test_nobody_told_who_is_here() -> None:
    made = Offers(0.0)
    assert not made.closed(WITHOUT - 0.1)
    assert made.closed(WITHOUT)
    assert made.unheard == " (the manager has not told who is here)"
