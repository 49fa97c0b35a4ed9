"""Names that other systems do not take: told to whoever fetches one, and never a reason to refuse."""

from __future__ import annotations

import re

_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]')
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9\u00b9\u00b2\u00b3])( *\..*| *)", re.I)


def unportable(name: str) -> str | None:
    """Why ``name`` ('/'-separated) cannot be on Windows, or on a disk from there; None where it can."""
    for part in name.split("/"):
        found = _FORBIDDEN.search(part)
        if found:
            return f"{part!a} has {found[0]!a} in it"
        if _DEVICE.fullmatch(part):
            return f"{part!a} is the name of a device there"
        if part.endswith((".", " ")):
            return f"{part!a} ends with a {'dot' if part.endswith('.') else 'space'}"
    return None
