"""What may stand in a field of a message: validators, each an error that names its field. Pure.

Text never holds a NUL. Only a file's name may hold CR and LF, as Linux lets it: nothing but
JSON ever carries it. All other text is one line, so that whoever passes it on passes on one
line. What else does not show itself (ESC, bidirectional marks) is escaped where it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

from p2pd.model import is_file_id, is_peer_id
from p2pd.pieces import MAX_SIZE
from p2pd.text import escape

MAX_PEER_NAME_BYTES = 255
MAX_SENTENCE = 250
"""Characters of a sentence that is sent: at most 1000 bytes of UTF-8, a field of one takes 1024."""
_COOKIE = re.compile(r"[!-~]{0,128}", re.ASCII)

Validator = Callable[[Any, Any, Any], None]


def integer(low: int = 0, high: int = MAX_SIZE) -> Validator:
    """``low`` to ``high``."""

    def check(_instance: object, attribute: attrs.Attribute[int], value: int) -> None:
        if not low <= value <= high:
            raise ValueError(f"{attribute.name}: {value} is not between {low} and {high}")

    return check


def _check_text(name: str, value: str, limit: int) -> None:
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError as error:  # a lone surrogate
        raise ValueError(f"{name}: not valid Unicode") from error
    if size > limit:
        raise ValueError(f"{name}: longer than {limit} bytes")
    if "\0" in value:
        raise ValueError(f"{name}: a NUL")


def _check_line(name: str, value: str, limit: int) -> None:
    _check_text(name, value, limit)
    if "\r" in value or "\n" in value:
        raise ValueError(f"{name}: more than one line")


def text(limit: int) -> Validator:
    """A file's name: up to ``limit`` bytes of UTF-8, anything but NUL."""

    def check(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
        _check_text(attribute.name, value, limit)

    return check


def line(limit: int) -> Validator:
    """Up to ``limit`` bytes of UTF-8 without NUL, CR and LF."""

    def check(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
        _check_line(attribute.name, value, limit)

    return check


def lines(most: int, limit: int) -> Validator:
    """At most ``most`` of what :func:`line` takes."""

    def check(_instance: object, attribute: attrs.Attribute[list[str]], value: list[str]) -> None:
        if len(value) > most:
            raise ValueError(f"{attribute.name}: more than {most}")
        for each in value:
            _check_line(attribute.name, each, limit)

    return check


def cookie() -> Validator:
    """Up to 128 visible ASCII characters: it is kept in a file, and comes back as it was."""

    def check(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
        if _COOKIE.fullmatch(value) is None:
            raise ValueError(f"{attribute.name}: not a cookie")

    return check


def peer_name() -> Validator:
    """See :func:`is_peer_name`."""

    def check(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
        if not is_peer_name(value):
            raise ValueError(f"{attribute.name}: not a peer name")

    return check


def is_peer_name(text: str) -> bool:
    """1 to 255 bytes of printable UTF-8 without white space at the ends."""
    if not text or text != text.strip() or not text.isprintable():
        return False
    return len(text.encode("utf-8", "surrogatepass")) <= MAX_PEER_NAME_BYTES


def file_id() -> Validator:
    """64 lower-case hex digits."""

    def check(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
        if not is_file_id(value):
            raise ValueError(f"{attribute.name}: not a file id")

    return check


def peer_id() -> Validator:
    """32 lower-case hex digits."""

    def check(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
        if not is_peer_id(value):
            raise ValueError(f"{attribute.name}: not a peer id")

    return check


def peer_ids() -> Validator:
    """A list of them."""

    def check(_instance: object, attribute: attrs.Attribute[list[str]], value: list[str]) -> None:
        if not all(map(is_peer_id, value)):
            raise ValueError(f"{attribute.name}: not a peer id")

    return check


def sentence(text: str) -> str:
    """``text`` as a field of a message may hold it: one line, not too long; names in it are escaped."""
    return escape(text)[:MAX_SENTENCE]
