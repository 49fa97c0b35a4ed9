"""Bytes to messages to bytes; no I/O.

:class:`Decoder` is fed what arrives and gives events: a :class:`Message`, or
:class:`Body` for raw bytes that follow one. A caller that reads the body
straight into its own memory asks ``body_left`` and says ``body_read(n)``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from typing import Any, NoReturn, get_type_hints

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn

from p2pd.errors import ProtocolError
from p2pd.wire.messages import MAX_LINE, Message, PeerRow

_INTEGER = re.compile(r"[0-9]{1,19}", re.ASCII)
_VERB = re.compile(rb"[a-z_]{1,31}(?: [a-z_]{1,32})?")
"""At most 64 bytes, as `unknown` takes them."""
_VERB_BEGINS = frozenset(b"abcdefghijklmnopqrstuvwxyz_")
_TLS_HANDSHAKE = 0x16


@attrs.frozen
class Body:
    """Raw bytes of the body that follows ``message``; ``left`` bytes of it are still to come."""

    message: Message
    data: bytes
    left: int


@attrs.frozen
class UnknownVerb:
    """A well-formed line whose verb the table does not hold."""

    verb: str


Event = Message | Body | UnknownVerb


def _strict_hook(wanted: type) -> Any:
    def structure(value: Any, _type: Any) -> Any:
        if type(value) is not wanted:
            raise TypeError(f"{wanted.__name__} expected, {type(value).__name__} given")
        return value

    return structure


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False, prefer_attrib_converters=False)
    for wanted in (int, str, bool):
        converter.register_structure_hook(wanted, _strict_hook(wanted))

    def structure_list(value: Any, kind: Any) -> list[Any]:
        if type(value) is not list:
            raise TypeError(f"list expected, {type(value).__name__} given")
        (item,) = kind.__args__
        return [converter.structure(each, item) for each in value]

    converter.register_structure_hook_func(
        lambda kind: getattr(kind, "__origin__", None) is list, structure_list
    )
    return converter


_converter = _make_converter()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _parse_int(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise ValueError("numbers are 1 to 19 decimal digits")
    return int(text)


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


_json = json.JSONDecoder(
    parse_int=_parse_int,
    parse_float=_refuse_constant,
    parse_constant=_refuse_constant,
    object_pairs_hook=_unique_pairs,
)


_structure_fns: dict[type, Any] = {}


def _structure_fn(cls: type) -> Any:
    made = _structure_fns.get(cls)
    if made is None:
        made = _structure_fns[cls] = make_dict_structure_fn(cls, _converter)
    return made


for _row in (PeerRow,):
    _converter.register_structure_hook(_row, _structure_fn(_row))

_PLAIN = re.compile(
    rb'"[a-z_]{1,32}": (?:[0-9]{1,18}|"[^"\\]*"|true|false)'
    rb'(?:, "[a-z_]{1,32}": (?:[0-9]{1,18}|"[^"\\]*"|true|false))*}'
)
"""What :func:`encode` makes of a flat message behind its opening brace. No quote stands in it but those
around keys and values, so ``": `` is there once for each key."""
_scan = json.JSONDecoder().raw_decode


@attrs.frozen
class _Flat:
    """How messages of a class are coded that has but numbers, strings and truth values.

    Nearly all lines of a transfer are of such, and thousands of them come and go each second.
    """

    kinds: tuple[tuple[str, type], ...]
    template: str
    values: Any  # of a message, in that order

    @classmethod
    def of(cls, message: type[Message]) -> _Flat | None:
        hints = get_type_hints(message)
        kinds = tuple((field.name, hints[field.name]) for field in message.__attrs_attrs__)  # type: ignore[attr-defined]
        if len(kinds) < 2 or any(kind not in (int, str, bool) for _, kind in kinds):
            return None
        pairs = ", ".join(f'"{name}": %s' for name, _ in kinds)
        names = [name for name, _ in kinds]
        return cls(kinds, f"{message.VERB} {{{pairs}}}\n", attrgetter(*names))


_flats: dict[type, _Flat | None] = {}


def _flat(cls: type[Message]) -> _Flat | None:
    if cls not in _flats:
        _flats[cls] = _Flat.of(cls)
    return _flats[cls]


def prepare(table: Mapping[str, type[Message]]) -> None:
    """Make now what coding and decoding these takes, a few ms for each: not when a transfer begins."""
    for cls in table.values():
        if _flat(cls) is None:
            _structure_fn(cls)


def _decode_plain(cls: type[Message], flat: _Flat, rest: bytes) -> Message | None:
    """What is as we would have written it ourselves; None: all else, the careful way judges it."""
    if _PLAIN.fullmatch(rest) is None:
        return None
    try:
        fields, _ = _scan("{" + rest.decode("utf-8"))
        values = [fields[name] for name, _ in flat.kinds]
        if len(fields) != rest.count(b'": '):
            return None  # a key stands twice
        for value, (_, kind) in zip(values, flat.kinds, strict=True):
            if type(value) is not kind:
                return None
        return cls(*values)
    except (ValueError, KeyError):
        return None


def decode_line(line: bytes, table: Mapping[str, type[Message]]) -> Message | UnknownVerb:
    """One line, without its line feed. ProtocolError, naming the field, for anything else."""
    verb_bytes, brace, rest = line.partition(b" {")
    if not brace or _VERB.fullmatch(verb_bytes) is None:
        raise ProtocolError("a line is a verb, a space and a JSON object")
    verb = verb_bytes.decode("ascii")
    cls = table.get(verb)
    if cls is None:
        return UnknownVerb(verb)
    flat = _flat(cls)
    if flat is not None:
        plain = _decode_plain(cls, flat, rest)
        if plain is not None:
            return plain
    return _decode_carefully(cls, verb, rest)


def _decode_carefully(cls: type[Message], verb: str, rest: bytes) -> Message:
    try:
        fields = _json.decode((b"{" + rest).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{verb}: not acceptable JSON: {str(error)[:200]}") from None
    for field in cls.__attrs_attrs__:  # type: ignore[attr-defined]
        if field.name not in fields:
            raise ProtocolError(f"{verb}: {field.name} is missing")
    try:
        message: Message = _structure_fn(cls)(fields, cls)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"{verb}: {_blame(cls, fields, error)}") from None
    return message


def _blame(cls: type, fields: dict[str, Any], error: Exception) -> str:
    """Name the field: validators do so themselves, type errors are looked for."""
    if isinstance(error, ValueError):
        return str(error)[:300]
    for field in attrs.fields(cls):
        try:
            _converter.structure(fields[field.name], field.type)
        except Exception as cause:
            return f"{field.name}: {str(cause)[:200]}"
    return str(error)[:200]


def _write(value: int | str) -> str:
    if type(value) is str:
        return encode_basestring_ascii(value)
    if type(value) is int:
        return str(value)
    if type(value) is bool:
        return "true" if value else "false"
    return json.dumps(value)


def encode(message: Message) -> bytes:
    """The message's line with its line feed; the body, if any, is sent by the caller.

    ValueError where it would be longer than 64 KiB: long lists go in pages.
    """
    flat = _flat(type(message))
    if flat is not None:
        line = (flat.template % tuple(map(_write, flat.values(message)))).encode("ascii")
    else:
        line = f"{message.VERB} {json.dumps(_converter.unstructure(message))}\n".encode("ascii")
    if len(line) > MAX_LINE:
        raise ValueError(f"{message.VERB} line of {len(line)} bytes")
    return line


def _check_beginning(first: int) -> None:
    """What cannot become a line need not be waited for: whoever speaks another protocol waits too."""
    if first == _TLS_HANDSHAKE:
        raise ProtocolError("a line begins with a verb; this looks like TLS, which is not spoken here")
    if first not in _VERB_BEGINS:
        raise ProtocolError("a line begins with a verb")


class Decoder:
    """Feed with :meth:`receive`, then take events by :meth:`next_event` until it gives None.

    Holds at most one line and what came behind it in one read. Raises
    ProtocolError for a line over 64 KiB, also one without an end in sight.
    After an error nothing more comes of it.
    """

    def __init__(self, table: Mapping[str, type[Message]]) -> None:
        self._table = table
        self._buffer = bytearray()
        self._start = 0
        self._searched = 0
        self._message: Message | None = None
        self.body_left = 0
        self.line_length = 0
        """Bytes of the line that the last event came from."""

    @property
    def buffered(self) -> int:
        """Bytes fed and not yet taken."""
        return len(self._buffer) - self._start

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take what arrived."""
        if self._start:
            del self._buffer[: self._start]
            self._searched -= self._start
            self._start = 0
        self._buffer += data

    def body_read(self, count: int) -> None:
        """``count`` bytes of the body were read by the caller himself; only with nothing buffered."""
        if self.buffered or not 0 <= count <= self.body_left:
            raise ValueError("more than the body's bytes, or out of order")
        self.body_left -= count

    def next_event(self) -> Event | None:
        """The next event, or None where more bytes are needed."""
        if self.body_left:
            if not self.buffered:
                return None
            end = self._start + min(self.body_left, self.buffered)
            data = bytes(memoryview(self._buffer)[self._start : end])
            self.body_left -= len(data)
            self._start = end
            self._searched = max(self._searched, end)
            assert self._message is not None
            return Body(self._message, data, self.body_left)
        found = self._buffer.find(b"\n", max(self._searched, self._start))
        if found < 0:
            self._searched = len(self._buffer)
            if self.buffered >= MAX_LINE:
                raise ProtocolError(f"a line is longer than {MAX_LINE} bytes")
            if self.buffered:
                _check_beginning(self._buffer[self._start])
            return None
        if found - self._start >= MAX_LINE:
            raise ProtocolError(f"a line is longer than {MAX_LINE} bytes")
        line = bytes(memoryview(self._buffer)[self._start : found])
        self._start = self._searched = found + 1
        self.line_length = len(line)
        event = decode_line(line, self._table)
        if isinstance(event, Message):
            self._message = event
            self.body_left = event.body_length
        return event
