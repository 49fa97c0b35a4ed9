r"""Text from elsewhere, made safe to show: names come from other machines and may be hostile.

Standard library only: the client imports it too.
"""

from __future__ import annotations

_INVISIBLE = frozenset(
    chr(code)
    for first, last in (
        (0x034F, 0x034F),  # combining grapheme joiner
        (0x115F, 0x1160),  # Hangul fillers
        (0x17B4, 0x17B5),
        (0x180B, 0x180F),
        (0x2800, 0x2800),  # blank Braille
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),  # variation selectors
        (0xFFA0, 0xFFA0),
        (0xE0100, 0xE01EF),
    )
    for code in range(first, last + 1)
)
"""Zero-width or blank, although Unicode calls them printable."""


def escape(text: str) -> str:
    r"""``text`` on one line and harmless: what is not plainly visible becomes ``\xNN`` or ``\uNNNN``.

    That is control characters (ESC, newlines, C1), bidirectional marks, zero-width
    and unassigned characters, lone surrogates and every space but the ordinary one.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char.isprintable() and char not in _INVISIBLE else _escaped(ord(char)) for char in text
    )


def _escaped(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
