"""A conversation under a clock that is told: liveness, strikes, and any messages in any order."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from p2pd.errors import NotFoundError
from p2pd.model import FileId, Manifest, Offer
from p2pd.peer.conversation import DOUBT, HELLO_DEADLINE, LINGER, PING_AFTER, SILENCE, STRIKES, WRITE_STALL
from p2pd.peer.serving import MAX_FILES
from p2pd.peer.stock import Copy
from p2pd.share.index import Entry
from p2pd.wire import messages as m
from p2pd.wire.codec import encode
from tests.rig.quiet import EmptyIndex, Quiet

FILES = st.sampled_from(["ab" * 32, "cd" * 32])
NAMES = st.sampled_from(["f", "a/b", "../x", "a\nb"])
SMALL = st.integers(0, 3)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "code": st.just("refused"), "message": st.just("why"), "verb": st.just("shuffle"), "number": SMALL,
    "major": st.integers(0, 2), "minor": SMALL, "id": st.sampled_from(["b" * 32, "c" * 32]),
    "name": NAMES, "port": SMALL, "req": SMALL, "piece_size": st.sampled_from([1, 65536]), "size": SMALL,
    "file": FILES, "bitfield": SMALL, "done": SMALL, "length": st.sampled_from([1, 32]), "count": SMALL,
    "grant": SMALL, "bytes": st.just(65536), "offset": SMALL, "place": SMALL, "first": SMALL,
    "once": st.booleans(), "others": st.just([m.PeerRow("c" * 32, "third", "127.0.0.1", 1)]),
    "pieces": st.sampled_from(["", "0", "0-3,7", "7,0", "x", "9" * 30]), "needed": st.booleans(),
    "later": st.booleans(),
}  # fmt: skip


def built(cls: type[Any], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(cls, **{field.name: FIELDS[field.name] for field in attrs.fields(cls)} | more)


MESSAGES = st.one_of(
    [built(cls) for name, cls in m.PEER_TO_PEER.items() if name != "hello"]
    + [built(m.Hello, name=st.just("other")), st.just(b"shuffle {}\n")]
)


class Asker:
    """Whoever asked: hears everything, says nothing."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_: None


FILE_IDS = [FileId(f"{number:064x}") for number in range(MAX_FILES + 3)]


class Shared(EmptyIndex):
    """Of a share whose files are all the same 100 bytes, but for those that are ``gone``."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(100))
        self._path = path
        self.gone: set[FileId] = set()

    def offered(self, file_id: str) -> Any:
        return Entry

    def open(self, file_id: FileId) -> tuple[int, Manifest, None]:
        if file_id in self.gone:
            raise NotFoundError("no file of this id is shared here")
        return os.open(self._path, os.O_RDONLY), Manifest(100, 100, bytes(32)), None

    def still(self, *_: object) -> bool:
        return True


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Quiet]:
    quiet = Quiet().introduce()
    quiet.index = Shared(tmp_path / "f")
    quiet.heard()
    yield quiet
    quiet.end()


@pytest.mark.fault(5)
def test_who_is_silent_is_pinged_then_dropped() -> None:
    quiet = Quiet().introduce()
    quiet.heard()
    quiet.tick(PING_AFTER + 1)
    assert quiet.heard() == [m.Ping(0)]
    quiet.say(encode(m.Pong(0)))
    quiet.tick(PING_AFTER + 1)
    assert quiet.heard() == [m.Ping(0)]
    quiet.tick(SILENCE - PING_AFTER)
    assert quiet.wire.aborted
    assert quiet.heard() == []


@pytest.mark.fault(5)
def test_who_is_said_to_be_gone_is_asked() -> None:
    quiet = Quiet().introduce()
    for _ in range(2):
        quiet.tick(1)
        quiet.heard()
        quiet.conversation.doubt()
        assert quiet.heard() == [m.Ping(0)]
        quiet.tick(1)
        quiet.say(encode(m.Pong(0)))
        quiet.tick(DOUBT + 2)
        assert not quiet.wire.aborted
    quiet.conversation.doubt()
    quiet.tick(DOUBT + 1)
    assert quiet.wire.aborted


@pytest.mark.fault(5)
def test_who_takes_nothing_is_dropped_and_who_takes_little_is_not() -> None:
    quiet = Quiet().introduce()
    quiet.wire.blocked = True
    for _ in range(5):
        quiet.tick(WRITE_STALL - 1)
        quiet.say(encode(m.Pong(0)))
        assert not quiet.wire.aborted
        quiet.wire.sent_bytes += 1
    quiet.tick(WRITE_STALL + 2)
    assert quiet.wire.aborted


@pytest.mark.fault(5)
def test_who_never_closes_after_an_error_is_dropped() -> None:
    quiet = Quiet().introduce()
    quiet.say(b"nonsense\n")
    assert quiet.wire.half_closed
    quiet.tick(LINGER + 1)
    assert quiet.wire.aborted


@pytest.mark.fault(3)
def test_who_does_not_say_hello_is_told_so() -> None:
    quiet = Quiet()
    quiet.tick(HELLO_DEADLINE + 1)
    assert isinstance(quiet.heard()[-1], m.Error)


@pytest.mark.fault(9)
def test_who_says_too_much_is_read_again_after_a_pause() -> None:
    quiet = Quiet().introduce()
    quiet.heard()
    quiet.say(encode(m.Ping(1)) * 5000)
    early = len(quiet.heard())
    assert early < 1500
    assert not quiet.wire.reading
    while not quiet.wire.reading:
        quiet.clock.advance(0.05)
        more = len(quiet.heard())
        assert more <= 501
        early += more
    assert early == 5000


def test_a_fault_in_one_half_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Quiet().introduce()
    ended: list[str] = []

    def end(half: str) -> None:
        ended.append(half)
        raise KeyError(half)

    monkeypatch.setattr(quiet.conversation.fetching, "end", lambda: end("fetching"))
    monkeypatch.setattr(quiet.conversation.serving, "end", lambda: end("serving"))
    with pytest.raises(KeyError):
        quiet.end()
    assert ended == ["fetching", "serving"]
    assert quiet.over


@pytest.mark.fault(16)
@settings(max_examples=150)
@given(st.booleans(), st.lists(MESSAGES, max_size=20))
def test_any_messages_in_any_order(introduced: bool, messages: list[Any]) -> None:
    """At worst one `error`, after which nothing is said; never a fault of ours, which is another code."""
    quiet = Quiet()
    asker: Any = Asker()
    said = [quiet.hello()]
    if introduced:
        quiet.introduce()
        quiet.conversation.fetching.ask("f", asker)
        quiet.conversation.fetching.want("ab" * 32, asker, 2)  # type: ignore[arg-type]
    unknown = 0
    for message in messages:
        if not quiet.conversation.ended:
            unknown += message == b"shuffle {}\n"
        body = b"\0" * message.body_length if isinstance(message, m.Message) else b""
        quiet.say((encode(message) if isinstance(message, m.Message) else message) + body)
        if quiet.conversation.ended and not quiet.wire.closed:
            assert quiet.wire.half_closed or quiet.wire.aborted
    events = quiet.heard()
    assert events[: len(said)] == said
    errors = [event for event in events if isinstance(event, m.Error)]
    assert [error.code for error in errors] in ([], ["protocol"])
    assert not errors or events[-1] == errors[0]
    assert sum(isinstance(event, m.Unknown) for event in events) <= min(unknown, STRIKES)
    if not introduced and messages and not isinstance(messages[0], m.Hello | m.Error):
        assert errors
    quiet.end()


def test_a_cold_read_that_fails_after_its_file_was_closed_closes_nothing_else(
    sharing: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading: Deferred[None] = Deferred()

    def in_thread(work: Callable[[], None]) -> Deferred[None]:
        work()
        return reading

    monkeypatch.setattr(sharing, "in_thread", in_thread)
    monkeypatch.setattr(Copy, "in_memory", lambda *_: False)
    serving = sharing.conversation.serving
    sharing.say(encode(m.Want(FILE_IDS[0], 1)) + encode(m.Get(1, 0, 100)))
    fd = serving.uploads[FILE_IDS[0]].copy.fd
    assert serving.next_slice() is None
    with open(os.devnull, "rb") as other:
        sharing.say(encode(m.Cancel(1)) + encode(m.Want(FILE_IDS[0], 0)))
        os.dup2(other.fileno(), fd)  # the number is somebody else's now
    reading.errback(OSError(errno.EIO, "Input/output error"))
    os.close(fd)
    assert not any(isinstance(event, m.Gone) for event in sharing.heard())
    monkeypatch.setattr(Copy, "in_memory", lambda *_: True)
    sharing.say(encode(m.Want(FILE_IDS[1], 1)) + encode(m.Get(3, 0, 100)))
    assert serving.next_slice() is not None


def test_files_that_wait_for_a_place_are_served_though_the_first_of_them_is_gone(sharing: Quiet) -> None:
    first, second, third = FILE_IDS[MAX_FILES:]
    for file_id in FILE_IDS:
        sharing.say(encode(m.Want(file_id, 1)))
    sharing.heard()
    sharing.index.gone = {first}
    sharing.say(encode(m.Want(FILE_IDS[0], 0)))
    gone, grant = sharing.heard()
    assert isinstance(gone, m.Gone)
    assert isinstance(grant, m.Grant)
    assert (gone.file, grant.file) == (first, second)
    sharing.say(encode(m.Want(second, 0)))
    (grant,) = sharing.heard()
    assert isinstance(grant, m.Grant)
    assert grant.file == third


def test_a_file_that_got_a_place_waits_for_none_any_more(
    sharing: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Copy, "in_memory", lambda *_: True)
    late = FILE_IDS[MAX_FILES]
    for file_id in FILE_IDS[: MAX_FILES + 1]:
        sharing.say(encode(m.Want(file_id, 1)))
    sharing.say(encode(m.Get(1, 0, 100)))
    assert sharing.conversation.serving.next_slice() is not None
    # The first one is closed when this frame is out; its place is free at once.
    sharing.say(encode(m.Cancel(1)) + encode(m.Want(FILE_IDS[0], 0)))
    sharing.say(encode(m.Want(late, 2)))
    sharing.heard()
    sharing.say(encode(m.Want(late, 0)))
    assert sharing.conversation.serving.next_slice() is None
    assert sharing.heard() == []


def test_nothing_is_hashed_for_who_has_gone() -> None:
    quiet = Quiet().introduce()
    hashing: Deferred[Manifest] = Deferred()

    async def find(_name: str) -> Any:
        class Found:
            class key:
                size = 2**40

        return Found

    quiet.index.find = find
    quiet.index.manifest = lambda *_: hashing
    quiet.index.hashing_progress = lambda _: (0, 2**40)
    quiet.say(encode(m.Req(1, "f", 0)))
    assert not hashing.called
    quiet.end()
    assert hashing.called


def test_a_conversation_hears_of_changes_only_while_a_req_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Quiet().introduce()
    told: list[object] = []
    monkeypatch.setattr(quiet.index, "subscribe", told.append)
    monkeypatch.setattr(quiet.index, "unsubscribe", told.remove)
    for message, after in [
        (m.Req(1, "f", 0), 1),
        (m.Req(2, "g", 0), 1),
        (m.Withdraw(1), 1),
        (m.Withdraw(2), 0),
        (m.Withdraw(2), 0),
        (m.Req(3, "f", 0), 1),
    ]:
        quiet.say(encode(message))
        assert len(told) == after
    quiet.end()
    assert not told


def test_the_limit_counts_bodies_that_come_in_one_read_with_their_line() -> None:
    quiet = Quiet().introduce()
    quiet.down.change(100_000)
    hashes = os.urandom(32 * 1000)
    manifest = Manifest(1000 * 65536, 65536, hashes)
    offer = Offer("f", manifest.size, manifest.piece_size, manifest.file_id)
    came = quiet.conversation.fetching.manifest(offer)
    head = encode(m.PieceList(manifest.file_id, manifest.size, manifest.piece_size, len(hashes)))
    quiet.say(head + hashes)
    assert came.called
    assert not quiet.wire.reading
    quiet.clock.advance(0.1)
    assert not quiet.wire.reading
    quiet.clock.advance(0.3)
    assert quiet.wire.reading
    quiet.end()
