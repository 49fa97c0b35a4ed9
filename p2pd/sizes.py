"""Sizes and rates as people write them: K, M, G are powers of 1000, Ki, Mi, Gi of 1024."""

from __future__ import annotations

import re

from p2pd.errors import UsageError
from p2pd.pieces import MAX_SIZE

LEAST_RATE = 1000
"""Bytes per second; with less, nothing would ever be in time."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))?([KMGT]i?)?B?", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes, for ``100K``, ``1Mi``, ``1.5G``, ``4096``. UsageError for anything else or beyond 2**63-1."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is not a size: a number with K, M, G or Ki, Mi, Gi")
    whole, fraction, unit = found.groups()
    factor = _UNITS[unit or ""]
    size = int(whole) * factor
    if fraction:
        size += int(fraction) * factor // 10 ** len(fraction)
    if size > MAX_SIZE:
        raise UsageError(f"{text!r} is too large")
    return size


def parse_rate(text: str) -> int | None:
    """Bytes per second, at least 1000, for ``500K``, ``1.5Mi``; None, no limit, for ``off``. UsageError."""
    if text == "off":
        return None
    rate = parse_size(text.removesuffix("/s"))
    if rate < LEAST_RATE:
        raise UsageError(f"{text!r}: a limit is at least {LEAST_RATE} bytes per second, or off")
    return rate
