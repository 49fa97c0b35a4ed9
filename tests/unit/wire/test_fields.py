"""What may stand in a field: whatever hides a line break or is no UTF-8 is refused, wherever it stands."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.errors import ProtocolError
from p2pd.wire import messages as m
from p2pd.wire.codec import decode_line, encode
from p2pd.wire.fields import MAX_SENTENCE, sentence
from tests.fuzz.seeds import DIRECTIONS, message

EVERY = [(table, cls) for table in DIRECTIONS.values() for cls in table.values()]
NO_UTF_8 = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc3", b"\x80", b"\xe2\x80"]
TEXTS = [
    (table, cls, field.name)
    for table, cls in EVERY
    for field in attrs.fields(cls)  # type: ignore[arg-type]
    if field.type in ("str", str)
]
FILE_NAMES = [(m.Req, "name"), (m.Have, "name"), (m.NotHave, "name")]


def with_field(cls: Any, field: str, value: Any) -> bytes:
    """The line of a message with that value, whatever it is, in a field."""
    verb, _, rest = encode(message(cls)).decode().partition(" {")
    return f"{verb} {json.dumps(json.loads('{' + rest) | {field: value})}".encode()


@pytest.mark.fault(8)
@given(st.sampled_from(EVERY), st.sampled_from(NO_UTF_8), st.floats(0, 1))
def test_a_line_that_is_no_utf_8(which: Any, bad: bytes, where: float) -> None:
    table, cls = which
    line = encode(message(cls))[:-1]
    at = round(where * len(line))
    with pytest.raises(ProtocolError):
        decode_line(line[:at] + bad + line[at:], table)


@pytest.mark.fault(8)
@pytest.mark.parametrize(("table", "cls", "field"), TEXTS)
@pytest.mark.parametrize("half", ["\ud800", "a\udfff", "\udc80b"])
def test_half_a_character(table: Any, cls: Any, field: str, half: str) -> None:
    with pytest.raises(ProtocolError, match=field):
        decode_line(with_field(cls, field, half), table)


@pytest.mark.fault(7)
@given(st.sampled_from(TEXTS), st.text(max_size=20), st.sampled_from("\0\r\n"), st.text(max_size=20))
def test_text_that_hides_a_line_break(which: Any, before: str, bad: str, after: str) -> None:
    table, cls, field = which
    if (cls, field) in FILE_NAMES:
        bad = "\0"
    with pytest.raises(ProtocolError, match=field):
        decode_line(with_field(cls, field, before + bad + after), table)


@pytest.mark.fault(7)
@pytest.mark.parametrize("bad", ["\0", "\r", "\n"])
def test_lists_of_text_too(bad: str) -> None:
    with pytest.raises(ProtocolError, match="listen"):
        decode_line(with_field(m.NewPeer, "listen", ["0.0.0.0", f"::{bad}"]), m.PEER_TO_MANAGER)
    with pytest.raises(ProtocolError, match="left"):
        decode_line(with_field(m.Changes, "left", ["cd" * 16 + bad]), m.MANAGER_TO_PEER)
    with pytest.raises(ProtocolError, match="listen"):
        decode_line(with_field(m.NewPeer, "listen", ["::"] * 17), m.PEER_TO_MANAGER)


@pytest.mark.fault(7, 29)
@given(st.text(max_size=400))
def test_what_we_say_of_anything_can_be_sent(text: str) -> None:
    said = sentence(text)
    assert len(said) <= MAX_SENTENCE
    assert decode_line(encode(m.Error("failed", said))[:-1], m.PEER_TO_PEER) == m.Error("failed", said)
