"""The codec: what one side encodes the other reads; everything else is refused with the field's name."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.errors import ProtocolError
from p2pd.wire import codec
from p2pd.wire import messages as m
from p2pd.wire.codec import Body, Decoder, UnknownVerb, decode_line, encode
from p2pd.wire.fields import sentence

FILE = "ab" * 32
PEER = "cd" * 16
NAMES = (
    st.text(max_size=200)
    .filter(lambda text: len(text.encode("utf-8", "surrogatepass")) < 4096)
    .filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text))
    .map(lambda text: text.replace("\0", "0"))
)
SENTENCES = NAMES.map(sentence)
NUMBERS = st.integers(0, 2**63 - 1)
MESSAGES = st.one_of(
    st.builds(m.Req, NUMBERS, NAMES, NUMBERS),
    st.builds(m.Have, NUMBERS, NAMES, NUMBERS, st.integers(1, 2**63 - 1), st.just(FILE), st.integers(0, 4)),
    st.builds(m.NotHave, NUMBERS, NAMES),
    st.builds(m.Get, NUMBERS, NUMBERS, st.integers(1, 2**63 - 1)),
    st.builds(m.Data, NUMBERS, NUMBERS, st.integers(1, m.MAX_FRAME)),
    st.builds(m.Gone, st.just(FILE), SENTENCES),
    st.builds(m.Want, st.just(FILE), st.integers(0, 64)),
)


@given(MESSAGES)
def test_what_is_encoded_is_decoded(message: m.Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line[:-1], m.PEER_TO_PEER) == message


@given(st.lists(MESSAGES, max_size=5), st.data())
def test_any_segmentation_gives_the_same_events(messages: list[m.Message], data: st.DataObject) -> None:
    bodies = [b"x" * min(message.body_length, 5000) for message in messages]
    messages = [
        attrs.evolve(message, **{message.BODY: len(body)}) if message.BODY else message  # type: ignore[misc]
        for message, body in zip(messages, bodies, strict=True)
        if not (isinstance(message, m.Data) and not body)
    ]
    stream = b"".join(encode(message) + body for message, body in zip(messages, bodies, strict=True))
    decoder = Decoder(m.PEER_TO_PEER)
    seen: list[m.Message] = []
    received = 0
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        decoder.receive(stream[:cut])
        stream = stream[cut:]
        while (event := decoder.next_event()) is not None:
            if isinstance(event, Body):
                received += len(event.data)
            else:
                assert isinstance(event, m.Message)
                seen.append(event)
    assert seen == messages
    assert received == sum(len(body) for body in bodies)


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    "number",
    [
        "-1",
        str(2**63),
        str(2**64),
        "9" * 5000,
        "1_0",
        "１",
        '" 7"',
        "1.0",
        "1e3",
        "true",
        '"5"',
        "null",
        "NaN",
    ],
)
def test_numbers_are_plain_decimal(number: str) -> None:
    line = f'get {{"grant": 1, "offset": {number}, "length": 5}}'.encode()
    with pytest.raises(ProtocolError):
        decode_line(line, m.PEER_TO_PEER)


@given(st.integers())
def test_an_offset_is_taken_only_in_its_range(number: int) -> None:
    line = f'get {{"grant": 1, "offset": {number}, "length": 5}}'.encode()
    if 0 <= number < 2**63:
        assert decode_line(line, m.PEER_TO_PEER) == m.Get(1, number, 5)
    else:
        with pytest.raises(ProtocolError):
            decode_line(line, m.PEER_TO_PEER)


def _have(**changes: Any) -> bytes:
    fields = {
        "req": 1,
        "name": "a",
        "size": 9,
        "piece_size": 65536,
        "file": FILE,
        "bitfield": 0,
        "others": [],
    }
    fields.update(changes)
    return b"have " + json.dumps({k: v for k, v in fields.items() if v != "-"}).encode()


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (_have(size="-"), "size"),
        (_have(size="9"), "size"),
        (_have(size=True), "size"),
        (_have(name=7), "name"),
        (_have(name="a" * 4097), "name"),
        (_have(name="\ud800"), "name"),
        (_have(file="AB" * 32), "file"),
        (_have(piece_size=0), "piece_size"),
        (_have(bitfield=1 << 18), "bitfield"),
    ],
)
def test_the_error_names_the_field(line: bytes, field: str) -> None:
    with pytest.raises(ProtocolError, match=field):
        decode_line(line, m.PEER_TO_PEER)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"have",
        b"have []",
        b'HAVE {"a": 1}',
        b'have  {"a": 1}',
        b'have {"req": 1, "req": 2}',
        b"have {" + b'"a": {' * 5000,
        b"have {" + b"[" * 60000,
        b'have {"a": NaN}',
        b'have {"a": 1e400}',
        b'have {"a": "\xff"}',
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b'x y z {"a": 1}',
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_line(line, m.PEER_TO_PEER)


def test_an_unknown_verb_is_told_from_a_bad_line() -> None:
    assert decode_line(b'shuffle {"a": 1}', m.PEER_TO_PEER) == UnknownVerb("shuffle")
    assert decode_line(b"welcome {}", m.PEER_TO_PEER) == UnknownVerb("welcome")


def test_unknown_keys_are_left_to_later_versions() -> None:
    assert decode_line(b'ping {"number": 3, "mood": "fine"}', m.PEER_TO_PEER) == m.Ping(3)


def test_a_line_without_an_end_is_refused_in_time() -> None:
    decoder = Decoder(m.PEER_TO_PEER)
    decoder.receive(b"a" * (m.MAX_LINE - 1))
    assert decoder.next_event() is None
    decoder.receive(b"a")
    with pytest.raises(ProtocolError, match="longer"):
        decoder.next_event()


def test_a_line_that_is_too_long_is_refused_though_it_ends() -> None:
    decoder = Decoder(m.PEER_TO_PEER)
    decoder.receive(b"ping {" + b" " * m.MAX_LINE + b'"number": 1}\n')
    with pytest.raises(ProtocolError, match="longer"):
        decoder.next_event()


def test_body_bytes_may_be_read_around_the_decoder() -> None:
    decoder = Decoder(m.PEER_TO_PEER)
    decoder.receive(encode(m.Data(1, 0, 10)) + b"abc")
    assert decoder.next_event() == m.Data(1, 0, 10)
    body = decoder.next_event()
    assert isinstance(body, Body)
    assert (body.data, body.left) == (b"abc", 7)
    assert decoder.body_left == 7
    decoder.body_read(7)
    decoder.receive(encode(m.Ping(1)))
    assert decoder.next_event() == m.Ping(1)
    with pytest.raises(ValueError, match="more than"):
        decoder.body_read(1)


def test_names_cannot_break_a_line() -> None:
    line = encode(m.NotHave(1, "a\nhave {}\r\u2028"))
    assert line.count(b"\n") == 1
    assert b"\r" not in line


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a\x1b[31m", "x" * 256, "\u202eabc"])
def test_peer_names_are_printable(name: str) -> None:
    with pytest.raises(ValueError, match="peer name"):
        m.Hello(1, 0, PEER, name, 7001)


# Lines that look like ours, and lines that nearly do: keys twice, missing, in another order, of another type.
_KEYS = st.sampled_from(
    ["grant", "offset", "length", "first", "count", "bytes", "file", "pieces", "place", "once"]
)
_VALUES = st.sampled_from([
    "0", "1", "7", "-0", "-1", "007", "1.0", "1e3", "true", "false", "null", "NaN",
    "9" * 18, "9" * 19, "9" * 20, f'"{FILE}"', '"0-3,7"', '""', '"a\\n"', '"\\u0041"',
    '"\x01"', '"\x7f"', '"\u00e4"', '"a\\"', '{}', '[]', '"x": 1',
])  # fmt: skip
_PAIRS = st.lists(st.tuples(_KEYS, _VALUES), max_size=7)


@given(
    st.sampled_from(["grant", "get", "data", "have piece", "want", "cancel"]),
    _PAIRS,
    st.sampled_from([", ", ",", " , "]),
    st.sampled_from([": ", ":", " : "]),
    st.sampled_from(["}", "} ", "", "}}", "}x"]),
    st.booleans(),
)
def test_the_short_way_takes_nothing_that_the_careful_one_does_not(
    verb: str, pairs: list[tuple[str, str]], comma: str, colon: str, end: str, complete: bool
) -> None:
    if complete:
        fitting = {"file": f'"{FILE}"', "pieces": '"0-3,7"', "once": "true"}
        missing = [field.name for field in m.PEER_TO_PEER[verb].__attrs_attrs__]  # type: ignore[attr-defined]
        pairs = [(name, fitting.get(name, "5")) for name in missing] + pairs
    inside = comma.join(f'"{key}"{colon}{value}' for key, value in pairs)
    line = f"{verb} {{{inside}{end}".encode()

    def outcome(decode: Any) -> object:
        try:
            return decode(line, m.PEER_TO_PEER)
        except ProtocolError as error:
            return str(error)

    def carefully(line: bytes, table: Any) -> object:
        verb, _, rest = line.partition(b" {")
        return codec._decode_carefully(table[verb.decode()], verb.decode(), rest)

    assert outcome(decode_line) == outcome(carefully)


def test_all_is_prepared_before_the_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    codec.prepare(m.PEER_TO_PEER)

    def too_late(*_: object) -> None:
        raise AssertionError("made while a message waits")

    monkeypatch.setattr(codec, "make_dict_structure_fn", too_late)
    monkeypatch.setattr(codec, "get_type_hints", too_late)
    for message in (m.Ping(1), m.Hello(1, 0, "0" * 32, "a", 7001), m.Grant(FILE, 1, 65536)):
        decoded = decode_line(encode(message)[:-1], m.PEER_TO_PEER)
        assert decoded == message
