"""All arithmetic on pieces, ranges, shares and bitfields. Units are bytes unless named pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MIN_PIECE = 64 * 1024
MAX_DEFAULT_PIECE = 4 * 1024 * 1024
FEW_PIECES = 500
DEFAULT_PIECES = ((FEW_PIECES, 128 * 1024), (1000, 256 * 1024), (2000, MAX_DEFAULT_PIECE))
"""So many of at most so many bytes. Short ones are passed on sooner; but each costs the processor as much
as some 30 KiB do, and where there is more to move there is less time for each."""
MAX_PIECES = 1 << 20
"""A manifest may name this many pieces (32 MiB of hashes); larger files need larger pieces."""
MAX_SIZE = 2**63 - 1
HASH_SIZE = 32


def default_piece_size(size: int) -> int:
    """The piece size of a file of ``size`` bytes where the user sets none.

    The power of two next below size/500, at most 128 KiB, or below size/1000, at most 256 KiB, or below
    size/2000, whichever is most; at least 64 KiB, at most 4 MiB; above MAX_PIECES pieces of that, the
    next power of two that needs no more. Part of protocol version 1: the file id depends on it.
    """
    wanted = max(min(size // count, most) for count, most in DEFAULT_PIECES)
    power = 1 << max(wanted.bit_length() - 1, 0)
    piece = min(max(power, MIN_PIECE), MAX_DEFAULT_PIECE)
    while piece_count(size, piece) > MAX_PIECES:
        piece *= 2
    return piece


def piece_count(size: int, piece_size: int) -> int:
    """How many pieces ``size`` bytes make; an empty file has none."""
    return -(-size // piece_size)


def piece_length(index: int, size: int, piece_size: int) -> int:
    """Length of piece ``index``; only the last one may be short."""
    return min(piece_size, size - index * piece_size)


def range_length(first: int, end: int, size: int, piece_size: int) -> int:
    """Bytes of the pieces [first, end)."""
    return min(end * piece_size, size) - first * piece_size


def share_bounds(rank: int, holders: int, count: int) -> tuple[int, int]:
    """The half-open run of pieces that holder ``rank`` of ``holders`` streams first.

    [rank*count//holders, (rank+1)*count//holders), as in the users' design, in pieces.
    """
    return rank * count // holders, (rank + 1) * count // holders


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def mask_of(pieces: Iterable[int]) -> int:
    """Pieces as a number whose bit i stands for piece i: unions and differences in one step."""
    mask = 0
    for piece in pieces:
        mask |= 1 << piece
    return mask


def pieces_in(mask: int) -> Iterator[int]:
    """The pieces of such a number, ascending."""
    for position, byte in enumerate(mask.to_bytes((mask.bit_length() + 7) // 8, "little")):
        if byte:
            for bit in range(8):
                if byte >> bit & 1:
                    yield position * 8 + bit


def lowest(mask: int) -> int:
    """The first piece of such a number, which is not 0."""
    return (mask & -mask).bit_length() - 1


def highest(mask: int) -> int:
    """The last piece of such a number, which is not 0."""
    return mask.bit_length() - 1


def run_mask(first: int, end: int) -> int:
    """The pieces [first, end) as such a number."""
    return (1 << end) - (1 << first)


def mask_length(mask: int, size: int, piece_size: int) -> int:
    """Bytes of the pieces of such a number."""
    last = piece_count(size, piece_size) - 1
    spared = piece_size - piece_length(last, size, piece_size) if mask and mask >> last else 0
    return mask.bit_count() * piece_size - spared


class Bitfield:
    """Which of ``count`` pieces somebody has; in packed form bit 7 of byte 0 is piece 0, as in BitTorrent."""

    __slots__ = ("_held", "_mask", "count")

    def __init__(self, count: int, bits: bytes | None = None) -> None:
        """``bits``: packed form; ValueError for a wrong length or spare bits that are set."""
        self.count = count
        length = (count + 7) // 8
        if bits is None:
            self._mask = self._held = 0
            return
        if len(bits) != length:
            raise ValueError(f"a bitfield of {count} pieces has {length} bytes, not {len(bits)}")
        if count % 8 and bits[-1] & (0xFF >> (count % 8)):
            raise ValueError("spare bits of the bitfield are set")
        self._mask = int.from_bytes(bits.translate(_REVERSED), "little")
        self._held = self._mask.bit_count()

    @classmethod
    def full(cls, count: int) -> Bitfield:
        """All pieces held."""
        return cls.from_mask(count, run_mask(0, count))

    @classmethod
    def of(cls, count: int, pieces: Iterable[int]) -> Bitfield:
        """The given pieces held; IndexError for one out of range."""
        field = cls(count)
        for piece in pieces:
            field.add(piece)
        return field

    @classmethod
    def from_mask(cls, count: int, mask: int) -> Bitfield:
        """The pieces of ``mask`` held, see :func:`mask_of`; IndexError for one out of range."""
        if mask >> count:
            raise IndexError(f"piece {highest(mask)} of {count}")
        field = cls(count)
        field._mask, field._held = mask, mask.bit_count()
        return field

    @property
    def mask(self) -> int:
        """The pieces held, see :func:`mask_of`."""
        return self._mask

    def __contains__(self, piece: int) -> bool:
        return 0 <= piece < self.count and bool(self._mask >> piece & 1)

    def add(self, piece: int) -> bool:
        """Mark ``piece`` held; False where it was already. IndexError out of range."""
        if not 0 <= piece < self.count:
            raise IndexError(f"piece {piece} of {self.count}")
        if self._mask >> piece & 1:
            return False
        self._mask |= 1 << piece
        self._held += 1
        return True

    def update(self, mask: int) -> int:
        """Mark the pieces of ``mask`` held; gives those that were not. IndexError out of range."""
        if mask >> self.count:
            raise IndexError(f"piece {highest(mask)} of {self.count}")
        new = mask & ~self._mask
        self._mask |= new
        self._held += new.bit_count()
        return new

    def discard(self, piece: int) -> None:
        """Mark ``piece`` not held."""
        if piece in self:
            self._mask ^= 1 << piece
            self._held -= 1

    def __len__(self) -> int:
        """How many pieces are held."""
        return self._held

    def __iter__(self) -> Iterator[int]:
        """The pieces held, ascending."""
        return pieces_in(self._mask)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bitfield) and self.count == other.count and self._mask == other._mask

    __hash__ = None  # type: ignore[assignment]  # mutable

    @property
    def complete(self) -> bool:
        """True where every piece is held."""
        return self._held == self.count

    def __bytes__(self) -> bytes:
        return self._mask.to_bytes((self.count + 7) // 8, "little").translate(_REVERSED)

    def copy(self) -> Bitfield:
        """An independent copy."""
        return Bitfield.from_mask(self.count, self._mask)

    def runs(self) -> list[tuple[int, int]]:
        """The pieces held as half-open runs, ascending: [(first, end), ...]."""
        return mask_runs(self._mask)


_ONES = re.compile("1+")
_FEW = 16
"""Up to so many runs are quicker looked for, or put together, one by one than as digits."""


def mask_runs(mask: int) -> list[tuple[int, int]]:
    """The pieces of ``mask`` as half-open runs, ascending."""
    if mask.bit_count() <= _FEW:
        runs = []
        while mask:
            low = lowest(mask)
            end = low + lowest(~(mask >> low))
            runs.append((low, end))
            mask &= -1 << end
        return runs
    return [found.span() for found in _ONES.finditer(bin(mask)[:1:-1])]


def format_runs(runs: Iterable[tuple[int, int]]) -> str:
    """Runs as a person writes them: ``0-3,7`` for [(0, 4), (7, 8)]."""
    return ",".join(f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in runs)


def parse_mask(text: str, count: int) -> int:
    """The reverse of :func:`format_runs`, as :func:`mask_of` gives it.

    ValueError for anything else, a piece not below ``count``, or runs out of order.
    """
    runs: list[tuple[int, int]] = []
    end = 0
    for part in text.split(",") if text else []:
        first, dash, last = part.partition("-")
        for number in (first, last) if dash else (first,):
            if not (number.isascii() and number.isdigit() and len(number) <= 19):
                raise ValueError(f"not a piece number: {number!r}")
        low = int(first)
        high = int(last) if dash else low
        if not end <= low <= high < count:
            raise ValueError(f"pieces {part!r} out of range or out of order")
        end = high + 1
        runs.append((low, end))
    if not runs:
        return 0
    start = runs[0][0]
    if len(runs) <= _FEW:
        return sum(run_mask(low - start, beyond - start) for low, beyond in runs) << start
    # Written as digits and read once: thousands of operations on long numbers would take a second.
    digits = bytearray(b"0") * (end - start)
    for low, beyond in runs:
        digits[low - start : beyond - start] = b"1" * (beyond - low)
    digits.reverse()
    return int(digits, 2) << start


def parse_runs(text: str, count: int) -> Bitfield:
    """The same as a bitfield."""
    return Bitfield.from_mask(count, parse_mask(text, count))


def format_parts(mask: int, limit: int) -> list[str]:
    """The pieces of ``mask`` as :func:`format_runs` writes them, in texts of at most ``limit`` characters."""
    parts: list[str] = []
    for run in mask_runs(mask):
        text = format_runs([run])
        if parts and len(parts[-1]) + 1 + len(text) <= limit:
            parts[-1] += "," + text
        else:
            parts.append(text)
    return parts
