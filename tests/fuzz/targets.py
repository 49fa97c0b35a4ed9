"""What is fuzzed: a target takes any bytes, and raises an AssertionError where a property fails.

Input is a letter, which names the target, and what it is given. Nothing here needs atheris: the
tests run the same targets over the seeds.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from p2pd.control import commands
from p2pd.errors import P2PError, ProtocolError, RefusedError, UsageError
from p2pd.manager.registry import Announcement, Registry
from p2pd.model import PeerId
from p2pd.peer.peerlist import PeerList
from p2pd.pieces import format_runs, parse_runs
from p2pd.share import job as jobs
from p2pd.share.partial import dump_manifest, parse_manifest
from p2pd.text import escape
from p2pd.wire import messages as m
from p2pd.wire.codec import Body, Decoder, Event, UnknownVerb, decode_line, encode
from p2pd.wire.fields import sentence
from tests.rig.quiet import Quiet

Table = Mapping[str, type[m.Message]]


def _events(data: bytes, table: Table, step: int) -> tuple[list[Event], ProtocolError | None]:
    """What comes of it, fed ``step`` bytes at a time; frames of one body joined. Checks what is kept."""
    decoder = Decoder(table)
    events: list[Event] = []
    try:
        for at in range(0, len(data), step):
            decoder.receive(data[at : at + step])
            while (event := decoder.next_event()) is not None:
                last = events[-1] if events else None
                if isinstance(event, Body) and isinstance(last, Body) and last.left:
                    events[-1] = Body(last.message, last.data + event.data, event.left)
                else:
                    events.append(event)
            assert decoder.buffered < m.MAX_LINE, "more than a line is kept"
            assert not (decoder.buffered and decoder.body_left), "a body is kept"
    except ProtocolError as error:
        return events, error
    return events, None


def _stream(data: bytes, table: Table) -> list[m.Message]:
    """Lines and bodies are the same in whatever portions they come; what is read can be said again."""
    step = data[0] + 1 if data else 1
    data = data[1:]
    events, error = _events(data, table, len(data) or 1)
    again, same = _events(data, table, step)
    # A line that cannot become one may be refused before its end has come.
    assert events == again
    assert (error is None) == (same is None)
    if error is not None:
        line = encode(m.Error(error.code, sentence(error.message)))
        assert line.count(b"\n") == 1
    messages = []
    for event in events:
        if isinstance(event, UnknownVerb):
            assert isinstance(decode_line(encode(m.Unknown(event.verb))[:-1], table), m.Unknown)
        elif isinstance(event, m.Message):
            messages.append(event)
            try:
                line = encode(event)
            except ValueError as error_of_ours:
                if "line of" in str(error_of_ours):
                    continue  # longer than it came, because text is escaped
                raise
            assert line.count(b"\n") == 1
            assert decode_line(line[:-1], table) == event
    return messages


def peer_to_peer(data: bytes) -> None:
    """What peers say to each other: the codec."""
    _stream(data, m.PEER_TO_PEER)


def conversation(data: bytes) -> None:
    """The same, to a peer that listens: at worst one `error`, and never one of ours."""
    quiet = Quiet()
    if data[:1] < b"\x80":
        quiet.introduce()
    quiet.say(data[1:])
    errors = [event for event in quiet.heard() if isinstance(event, m.Error)]
    assert len(errors) <= 1
    assert not errors or errors[0].code == "protocol", errors
    quiet.end()


def peer_to_manager(data: bytes) -> None:
    """What peers say to a manager, and what its rules make of those who come."""
    registry = Registry(30, {"127.0.0.1"}.__contains__)
    for said in _stream(data, m.PEER_TO_MANAGER):
        if isinstance(said, m.NewPeer):
            coming = Announcement(
                PeerId(said.id), said.name, said.port, said.listen, said.advertise, said.cookie
            )
            for observed in ("127.0.0.1", "10.0.0.5", "2001:db8::1"):
                with contextlib.suppress(RefusedError):
                    joined = registry.join(coming, observed, 0.0)
                    encode(m.Welcome(joined.cookie, 30, joined.host, sentence(joined.problem)))
            for batch in registry.flush():
                rows = [m.PeerRow(i.id, i.name, i.host, i.port) for i in batch.seen_by("").joined]
                encode(m.Changes(batch.serial, rows, list(batch.public.left)))


def manager_to_peer(data: bytes) -> None:
    """What a manager says, and what the list makes of it."""
    peers = PeerList(PeerId("a" * 32))
    peers.connected("127.0.0.1")
    for said in _stream(data, m.MANAGER_TO_PEER):
        with contextlib.suppress(ProtocolError):
            if isinstance(said, m.Peers):
                peers.take_page(said)
            elif isinstance(said, m.Changes):
                peers.take_changes(said)
    assert PeerId("a" * 32) not in peers.peers


def control_line(data: bytes) -> None:
    """A line to the control socket: words and options, or a UsageError that can be shown."""
    try:
        words = commands.split(data.partition(b"\n")[0])
        for role in ("peer", "manager", None):
            with contextlib.suppress(UsageError):
                commands.parse(words, role)
        assert not words or commands.split(commands.join(words)) == words
    except UsageError as error:
        shown = escape(str(error))
        assert shown.isprintable()


def state(data: bytes) -> None:
    """A resume file; also one whose check fits, as only the daemon's own should."""
    with contextlib.suppress(ValueError):
        jobs.parse_job(data)
    try:
        loaded: Any = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(loaded, dict):
        loaded.pop("check", None)
        loaded["check"] = jobs._check(loaded)
        try:
            stored = jobs.parse_job(json.dumps(loaded).encode())
        except ValueError:
            return
        again = jobs.dump_job(stored.job, stored.pieces, stored.finishing)
        assert jobs.parse_job(again) == stored
        with contextlib.suppress(ValueError):
            held = parse_runs(stored.pieces, 10_000)
            assert parse_runs(format_runs(held.runs()), 10_000) == held


def manifest(data: bytes) -> None:
    """A kept piece list."""
    with contextlib.suppress(ValueError):
        assert dump_manifest(parse_manifest(data)) == data


TARGETS: dict[bytes, Callable[[bytes], None]] = {
    b"p": peer_to_peer,
    b"c": conversation,
    b"m": peer_to_manager,
    b"u": manager_to_peer,
    b"l": control_line,
    b"s": state,
    b"f": manifest,
}


def one(data: bytes) -> None:
    """Run the target that the first byte names; any other byte stands for one of them."""
    letter = data[:1] or b"p"
    target = TARGETS.get(letter) or list(TARGETS.values())[letter[0] % len(TARGETS)]
    try:
        target(data[1:])
    except P2PError as error:
        raise AssertionError(f"{target.__name__} raises {error!r}") from error
