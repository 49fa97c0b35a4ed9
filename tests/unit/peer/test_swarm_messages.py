"""The messages of a swarm, from somebody who says too much, too often, or something else than is so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2pd.fetch.picker import Run
from p2pd.fetch.runs import FEW_AT_ONCE, HUNDREDS, LONG_AT_ONCE, WHOLE_AT_ONCE
from p2pd.model import FileId, Manifest, PeerId, PeerInfo
from p2pd.net.pace import AT_ONCE
from p2pd.peer import conversation as conversation_module
from p2pd.peer import serving as serving_module
from p2pd.peer.fetching import Fetching
from p2pd.peer.stock import Copy, Part
from p2pd.peer.weighing import LISTED, RECONSIDERED
from p2pd.pieces import Bitfield, parse_mask
from p2pd.share.index import Entry
from p2pd.wire import messages as m
from p2pd.wire.codec import encode
from tests.rig.quiet import EmptyIndex, Quiet

FILE, OTHER_FILE = FileId("ab" * 32), FileId("cd" * 32)
COUNT = 16 * 1024
PIECE = 1024


class Shared(EmptyIndex):
    """Of a share whose files are all the same pieces of zeros."""

    def __init__(self, path: Path, count: int = COUNT) -> None:
        path.write_bytes(bytes(count * PIECE))
        self._path, self._count = path, count

    def offered(self, file_id: str) -> Any:
        return Entry

    def open(self, file_id: FileId) -> tuple[int, Manifest, None]:
        return (
            os.open(self._path, os.O_RDONLY),
            Manifest(self._count * PIECE, PIECE, bytes(32 * self._count)),
            None,
        )

    def still(self, *_: object) -> bool:
        return True


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Quiet]:
    quiet = Quiet().introduce()
    quiet.index = Shared(tmp_path / "f")
    quiet.heard()
    yield quiet
    quiet.end()


def every_other(count: int) -> str:
    """As many pieces as a message takes, no two of them neighbours."""
    text = ",".join(str(piece) for piece in range(0, count, 2))
    return text[: m.MAX_PIECES_TEXT].rpartition(",")[0]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lists of pieces that were read."""
    texts: list[str] = []

    def parse(text: str, count: int) -> int:
        texts.append(text)
        return parse_mask(text, count)

    monkeypatch.setattr(conversation_module, "parse_mask", parse)
    return texts


@pytest.mark.fault(9)
def test_long_lists_of_pieces_are_read_slowly(sharing: Quiet, parsed: list[str]) -> None:
    sharing.say(encode(m.Want(FILE, 1)))
    line = encode(m.HavePiece(FILE, every_other(COUNT)))
    sharing.say(line * 100)
    assert 0 < len(parsed) <= AT_ONCE // (len(line) * LISTED // 1024) + 1
    assert not sharing.wire.reading
    while not sharing.wire.reading:
        sharing.clock.advance(0.05)
    assert len(parsed) == 100


@pytest.mark.fault(9)
def test_lists_of_files_that_nobody_here_cares_for_are_not_read(sharing: Quiet, parsed: list[str]) -> None:
    sharing.say(encode(m.HavePiece(FILE, "0-3")))
    sharing.say(encode(m.Want(FILE, 1)))
    sharing.say(encode(m.HavePiece(OTHER_FILE, "0-3")))
    assert parsed == []
    sharing.say(encode(m.HavePiece(FILE, "0-3")))
    assert parsed == ["0-3"]
    assert not sharing.conversation.ended


@pytest.mark.fault(20)
def test_pieces_that_a_file_does_not_have_are_an_error(sharing: Quiet) -> None:
    sharing.say(encode(m.Want(FILE, 1)))
    sharing.heard()
    sharing.say(encode(m.HavePiece(FILE, f"{COUNT}")))
    (error,) = sharing.heard()
    assert isinstance(error, m.Error)
    assert error.message.startswith("have piece: pieces:")


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    "message", [m.Want(FILE, 3), m.Decline(77), m.Cancel(77)], ids=lambda message: str(message.VERB)
)
def test_what_has_everybody_looked_at_anew_is_read_slowly(sharing: Quiet, message: m.Message) -> None:
    sharing.say(encode(message) * AT_ONCE)
    assert not sharing.wire.reading
    turns = 0
    while not sharing.wire.reading:
        sharing.clock.advance(0.05)
        turns += 1
    assert turns >= (RECONSIDERED - 1) * AT_ONCE // 500


def test_who_is_being_closed_keeps_no_place(sharing: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Copy, "in_memory", lambda *_: True)
    sharing.say(encode(m.Want(FILE, 2)) + encode(m.Get(1, 0, PIECE)) + encode(m.Get(2, PIECE, PIECE)))
    assert sharing.conversation.serving.next_slice() is not None
    assert sharing.granting.knows(FILE)
    sharing.say(b"nonsense\n")
    assert not sharing.over, "the other side may still read why"
    assert not sharing.granting.knows(FILE), "and others get their turn"
    assert sharing.conversation.next_slice() is None


def test_only_our_own_limits_are_no_silence_of_the_other_side() -> None:
    quiet = Quiet().introduce()
    for why, excused in (("limit", True), ("disk", True), ("pace", False), ("unsent", False)):
        quiet.conversation.hold(why)
        assert quiet.conversation.unread == excused, why
        quiet.conversation.release(why)
        assert not quiet.conversation.unread
    quiet.end()


@pytest.mark.parametrize(
    ("all_get", "he_gets", "frame"), [(125e6, 1e6, 0.5e6), (10e6, 5e6, 0.5e6), (1e5, 1e4, 0)]
)
def test_no_frame_takes_long_whoever_it_goes_to(
    sharing: Quiet, all_get: float, he_gets: float, frame: float
) -> None:
    sharing.granting.outflow.rate, sharing.conversation.serving._rate = all_get, he_gets
    least = serving_module.LEAST_FRAME
    assert sharing.conversation.serving._frame_length() == max(least, frame // least * least)


@pytest.mark.parametrize(
    ("all_get", "he_gets", "others", "queue"),
    [
        (12.5e6, 3e6, 0, 500_000),
        (12.5e6, 3e6, 3, 500_000),
        (12.5e6, 3e6, 7, 250_000),
        (6.25e6, 3e6, 15, 62_500),
        (2.5e6, 2.5e6, 0, 100_000),
        (125e6, 1e6, 0, 500_000),
        (0, 0, 0, 0),
    ],
)
def test_what_may_wait_in_the_kernel_is_by_what_goes_out_and_to_how_many(
    sharing: Quiet, monkeypatch: pytest.MonkeyPatch, all_get: float, he_gets: float, others: int, queue: int
) -> None:
    monkeypatch.setattr(Copy, "in_memory", lambda *_: True)
    sharing.say(encode(m.Want(FILE, 1)))
    for _ in range(others):
        sharing.granting.want(Somebody(), FILE, 1, sharing.now())
    sharing.granting.outflow.rate, sharing.conversation.serving._rate = all_get, he_gets
    sharing.say(encode(m.Get(1, 0, PIECE)))
    made = sharing.conversation.serving.next_slice()
    assert made is not None
    assert made[1].queue == queue


class Somebody:
    """Another client of the granting, who takes nothing."""

    def granted(self, file_id: FileId, grant: int, limit: int, run: Run | None, needed: bool) -> None:
        """Nothing to do."""


class Parts:
    """A peer that fetches files of 8 pieces, whom somebody else asks for them, too."""

    def __init__(self, path: Path, count: int = 1) -> None:
        path.write_bytes(bytes(8 * PIECE))
        self.quiet = Quiet().introduce()
        self.parts: list[Part] = []
        for number in range(count):
            manifest = Manifest(8 * PIECE, PIECE, bytes([number]) * 32 * 8)
            held, first = Bitfield.of(8, [0]), Bitfield(8)
            part = Part(f"f{number}", manifest, held, first, lambda: os.open(path, os.O_RDONLY))
            self.parts.append(part)
            self.quiet.stock.begin(part)
            self.quiet.granting.offer(part.file_id, 8, PIECE, held, first)
            self.quiet.granting.want(Somebody(), part.file_id, 1, self.quiet.now())
        self.quiet.heard()

    def gained(self, piece: int, *, whole: bool) -> None:
        for pieces in (self.parts[0].held, self.parts[0].first)[: 1 + whole]:
            pieces.add(piece)
        self.quiet.stock.gained(self.parts[0], 1)

    def grants(self) -> list[m.Grant]:
        return [each for each in self.quiet.heard() if isinstance(each, m.Grant)]

    def declines_all(self) -> None:
        while grants := self.grants():
            for each in grants:
                self.quiet.say(encode(m.Decline(each.grant)))


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path / "f")
    yield parts
    parts.quiet.end()


def test_who_declined_is_told_what_came_of_a_complete_holder(parts: Parts) -> None:
    parts.quiet.say(encode(m.Want(parts.parts[0].file_id, 3)))
    parts.declines_all()
    parts.quiet.tick(3)
    parts.gained(3, whole=False)
    assert parts.grants() == [], "it has nothing to ask for"
    parts.gained(5, whole=True)
    (named,) = parts.grants()
    assert (named.first, named.count) == (5, 1)


def test_who_declined_and_was_sent_too_much_is_told_of_it_later(parts: Parts) -> None:
    parts.quiet.say(encode(m.Want(parts.parts[0].file_id, 3)))
    parts.declines_all()
    upload = parts.quiet.conversation.serving.uploads[parts.parts[0].file_id]
    upload.over = True
    parts.quiet.tick(1)
    assert not upload.over
    assert parts.grants() == [], "it still has nothing to ask for"
    parts.gained(5, whole=True)
    (named,) = parts.grants()
    assert (named.first, named.count) == (5, 1)


def test_with_each_want_it_is_told_how_many_long_pieces_are_sent_at_once(parts: Parts) -> None:
    part, granting = parts.parts[0], parts.quiet.granting
    for count in (FEW_AT_ONCE, LONG_AT_ONCE):
        part.long_at_once = lambda count=count: count  # type: ignore[misc]
        parts.quiet.say(encode(m.Want(part.file_id, count)))
        assert granting._stocks[part.file_id].at_once == count


def test_of_a_file_of_the_share_it_is_told_so_by_how_many_there_are(tmp_path: Path) -> None:
    quiet = Quiet().introduce()
    quiet.index = Shared(tmp_path / "f", 8)
    for peers, at_once in ((1, WHOLE_AT_ONCE), (HUNDREDS, FEW_AT_ONCE)):
        quiet.roster = {PeerId(f"{n:032x}"): PeerInfo(PeerId(f"{n:032x}"), "p", "h", 1) for n in range(peers)}
        quiet.say(encode(m.Want(FILE, 3)))
        assert quiet.granting._stocks[FILE].at_once == at_once
    quiet.end()


def test_what_the_other_side_offered_is_not_named_to_it(parts: Parts) -> None:
    part, quiet = parts.parts[0], parts.quiet
    asker: Any = SimpleNamespace(offered=lambda *_: None, lost=lambda *_: None)
    number = quiet.conversation.fetching.ask("f0", asker)
    for piece in (4, 5):
        parts.gained(piece, whole=True)
    have = Bitfield.of(8, [0, 4])
    offer = m.Have(number, "f0", 8 * PIECE, PIECE, part.file_id, len(bytes(have)), [])
    quiet.say(encode(offer) + bytes(have))
    quiet.say(encode(m.Want(part.file_id, 3)))
    named = [piece for each in parts.grants() for piece in range(each.first, each.first + each.count)]
    assert named == [5]


def test_parts_of_which_nothing_is_chosen_keep_no_place_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "MAX_FILES", 1)
    parts = Parts(tmp_path / "f", 2)
    first, second = (part.file_id for part in parts.parts)
    parts.quiet.say(encode(m.Want(first, 3)))
    parts.declines_all()
    parts.quiet.say(encode(m.Want(second, 3)))
    assert parts.grants() == []
    parts.quiet.tick(serving_module.KEEP_OPEN + 2)
    assert {each.file for each in parts.grants()} == {second}
    parts.quiet.end()


class Full:
    """Somebody who fetches, and has enough on its way."""

    def __init__(self, *, enough: bool = True) -> None:
        self.enough = enough
        self.grants: list[int] = []

    def puts_off(self, source: Fetching) -> bool:
        return self.enough

    def granted(self, source: Fetching, grant: int, limit: int, named: Run | None) -> bool:
        self.grants.append(grant)
        return not self.enough

    def cancelled(self, source: Fetching, grant: int) -> None: ...
    def lost(self, source: Fetching) -> None: ...
    def has(self, source: Fetching, mask: int) -> None: ...
    def gone(self, source: Fetching, why: str) -> None: ...
    def misbehaved(self, source: Fetching) -> None: ...


def test_what_is_not_needed_is_put_off_where_nobody_here_could_use_it_now(sharing: Quiet) -> None:
    fetching = sharing.conversation.fetching
    full = Full()
    fetching.want(FILE, full, 3)
    sharing.heard()
    sharing.say(encode(m.Grant(FILE, 1, PIECE, needed=False)))
    assert sharing.heard() == [m.Decline(1, later=True)]
    assert full.grants == []
    sharing.say(encode(m.Grant(FILE, 2, PIECE)))
    assert sharing.heard() == [m.Decline(2)]
    assert full.grants == [2], "who would give it to nobody else is not put off"
    other = Full(enough=False)
    fetching.want(FILE, full, 3)
    fetching.want(FILE, other, 3)
    sharing.heard()
    sharing.say(encode(m.Grant(FILE, 3, PIECE, needed=False)))
    assert sharing.heard() == []
    assert other.grants == [3]
    assert full.grants == [2], "who has enough is passed over"


def test_what_is_needed_is_said_with_each_grant(parts: Parts) -> None:
    file = parts.parts[0].file_id
    parts.quiet.say(encode(m.Want(file, 3)))
    parts.declines_all()
    for number, needed in ((1001, False), (1002, True)):
        parts.quiet.conversation.serving.granted(file, number, PIECE, None, needed)
        assert [(each.grant, each.needed) for each in parts.grants()] == [(number, needed)]


def test_what_is_needed_cannot_be_put_off(parts: Parts) -> None:
    file = parts.parts[0].file_id
    parts.quiet.say(encode(m.Want(file, 3)))
    (grant, *_) = parts.grants()
    assert grant.needed
    upload = parts.quiet.conversation.serving.uploads[file]
    parts.quiet.say(encode(m.Decline(grant.grant, later=True)))
    assert upload.declined, "it was needed: that is to want none"
    # Where it is not needed it is.
    parts.quiet.say(encode(m.Want(file, 3)))
    (grant, *_) = parts.grants()
    parts.quiet.granting._open[grant.grant].needed = False
    parts.quiet.say(encode(m.Decline(grant.grant, later=True)))
    assert not upload.declined
