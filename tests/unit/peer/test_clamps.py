"""Fault 20: numbers that another machine sends are limits only within our own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import succeed

from p2pd.fetch.granting import ALONE
from p2pd.fetch.runs import MAX_RUN
from p2pd.fetch.transfer import Transfer
from p2pd.model import FileId, Manifest, Offer, PeerId
from p2pd.peer.answering import MAX_PIECE_SIZES
from p2pd.peer.offers import HASHING_GRACE, HASHING_PACE, Offers
from p2pd.pieces import MAX_PIECES, Bitfield, piece_count
from p2pd.share.index import Entry
from p2pd.wire import messages as m
from p2pd.wire.codec import encode
from tests.rig.quiet import Quiet

ANY = st.integers(0, 2**63 - 1)
PROGRESS = st.tuples(st.integers(1, 10**9), st.floats(0.1, 4))
A, B = PeerId("a" * 32), PeerId("b" * 32)


class Asked:
    """A transfer's driver: keeps how long the ranges are."""

    def __init__(self, piece: int) -> None:
        self.lengths: list[int] = []
        self._piece = piece

    def want(self, source: object, count: int, place: int, once: bool) -> None:
        pass

    def get(self, source: object, grant: int, run: Any, duplicate: bool) -> None:
        self.lengths.append(len(run) * self._piece)

    def cancel(self, source: object, grant: int) -> None:
        pass

    def blame(self, source: object, piece: int) -> None:
        pass


@pytest.mark.fault(20)
@given(st.integers(1, 2**63 - 1), st.sampled_from([2**20, 2**30]), st.integers(0, 2**50))
def test_no_more_is_asked_for_than_we_would_however_much_is_granted(
    grant: int, piece: int, rate: int
) -> None:
    driver: Any = Asked(piece)
    transfer = Transfer(2**33, piece, Bitfield(2**33 // piece), driver)
    transfer.add_source("s", "s", None, 0.0)
    transfer.sources["s"].rate = float(rate)
    assert transfer.granted("s", 1, grant, 0.0)
    assert driver.lengths[0] <= max(MAX_RUN, piece)


class OneFile:
    """An index with one file of ``size`` bytes, whose manifest is asked for at ``sizes``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sizes: list[int] = []

    def subscribe(self, callback: object) -> None:
        pass

    def unsubscribe(self, callback: object) -> None:
        pass

    async def find(self, name: str) -> Any:
        class Found:
            class key:
                size = self.size

        return Found

    def manifest(self, name: str, piece_size: int) -> Any:
        self.sizes.append(piece_size)
        return succeed(Manifest(0, 65536, b""))


@pytest.mark.fault(20)
@given(ANY, st.lists(ANY, max_size=30))
def test_piece_sizes_that_do_not_fit_or_are_too_many_give_the_usual_one(size: int, wanted: list[int]) -> None:
    quiet = Quiet().introduce()
    quiet.index = OneFile(size)
    for number, piece_size in enumerate(wanted):
        quiet.say(encode(m.Req(number, "f", piece_size)))
    asked = quiet.index.sizes
    assert len(asked) == len(wanted)
    assert len(set(asked) - {0}) <= MAX_PIECE_SIZES
    for got, said in zip(asked, wanted, strict=True):
        assert got in (0, said)
        assert not got or (got >= 1024 and piece_count(size, got) <= MAX_PIECES)
    assert sum(isinstance(event, m.Have) for event in quiet.heard()) == len(wanted)
    quiet.end()


@pytest.mark.fault(20)
@pytest.mark.parametrize("count", [1, ALONE, ALONE + 1, m.MAX_WANT])
def test_no_more_grants_than_we_give_however_many_are_wanted(count: int) -> None:
    quiet = Quiet().introduce()
    quiet.heard()
    file = FileId("ab" * 32)
    quiet.index.offered = lambda _: Entry
    quiet.index.open = lambda _: (-1, Manifest(0, 65536, b""), None)
    quiet.say(encode(m.Want(file, count)))
    quiet.say(encode(m.Want(file, count)))
    grants = [event for event in quiet.heard() if isinstance(event, m.Grant)]
    assert len(grants) == min(count, ALONE)


@pytest.mark.fault(20)
def test_more_grants_than_may_be_wanted_are_an_error() -> None:
    quiet = Quiet().introduce()
    quiet.say(b'want {"file": "%s", "count": %d, "place": 0, "once": false}\n' % (b"ab" * 32, m.MAX_WANT + 1))
    error = quiet.heard()[-1]
    assert isinstance(error, m.Error)
    assert "count" in error.message


@pytest.mark.fault(20)
@given(st.lists(PROGRESS, min_size=1, max_size=200), st.integers(0, 10**9))
def test_who_says_that_it_hashes_cannot_keep_a_file_from_its_name_for_ever(
    said: list[tuple[int, float]], size: int
) -> None:
    offers = Offers(0.0)
    offers.roster_known = True
    offers.asked(A, "honest", 0.0)
    offers.asked(B, "liar", 0.0)
    offers.have(A, Offer("f", size, 65536, FileId("1" * 64)), 0.0)
    now, done = 0.0, 0
    while now < HASHING_GRACE + size / HASHING_PACE + 5:
        for more, pause in said:
            now += pause
            done += more
            offers.hashing(B, done, now)
    assert offers.closed(now)


@pytest.mark.fault(20)
def test_progress_is_only_what_goes_on() -> None:
    offers = Offers(0.0)
    offers.roster_known = True
    offers.asked(A, "liar", 0.0)
    for step in range(5):
        offers.hashing(A, step % 2, float(step))
        assert not offers.closed(float(step))
    offers.hashing(A, 0, 6.5)
    assert offers.closed(6.5)
