"""All arithmetic on pieces, ranges, shares and bitfields. Units are bytes unless named pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MIN_PIECE = 64 * 1024
MAX_DEFAULT_PIECE = 4 * 1024 * 1024
MAX_PIECES = 1 << 20
"""A manifest may name this many pieces (32 MiB of hashes); larger files need larger pieces."""
MAX_SIZE = 2**63 - 1
HASH_SIZE = 32


def default_piece_size(size: int) -> int:
    """The piece size of a file of ``size`` bytes where the user sets none.

    The power of two next below size/2000, at least 64 KiB, at most 4 MiB; above
    MAX_PIECES pieces of that, the next power of two that needs no more. Part of
    protocol version 1: the file id depends on it.
    """
    wanted = size // 2000
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


def share_bounds(rank: int, holders: int, count: int) -> tuple[int, int]:
    """The half-open run of pieces that holder ``rank`` of ``holders`` streams first.

    [rank*count//holders, (rank+1)*count//holders), as in the users' design, in pieces.
    """
    return rank * count // holders, (rank + 1) * count // holders


class Bitfield:
    """Which of ``count`` pieces somebody has; bit 7 of byte 0 is piece 0, as in BitTorrent."""

    __slots__ = ("_bits", "_held", "count")

    def __init__(self, count: int, bits: bytes | None = None) -> None:
        """``bits``: packed form; ValueError for a wrong length or spare bits that are set."""
        self.count = count
        length = (count + 7) // 8
        if bits is None:
            self._bits = bytearray(length)
            self._held = 0
            return
        if len(bits) != length:
            raise ValueError(f"a bitfield of {count} pieces has {length} bytes, not {len(bits)}")
        if count % 8 and bits[-1] & (0xFF >> (count % 8)):
            raise ValueError("spare bits of the bitfield are set")
        self._bits = bytearray(bits)
        self._held = int.from_bytes(self._bits, "big").bit_count()

    @classmethod
    def full(cls, count: int) -> Bitfield:
        """All pieces held."""
        bits = bytearray(b"\xff" * ((count + 7) // 8))
        if count % 8:
            bits[-1] = (0xFF << (8 - count % 8)) & 0xFF
        return cls(count, bytes(bits))

    @classmethod
    def of(cls, count: int, pieces: Iterable[int]) -> Bitfield:
        """The given pieces held; IndexError for one out of range."""
        field = cls(count)
        for piece in pieces:
            field.add(piece)
        return field

    def __contains__(self, piece: int) -> bool:
        return 0 <= piece < self.count and bool(self._bits[piece >> 3] & (0x80 >> (piece & 7)))

    def add(self, piece: int) -> bool:
        """Mark ``piece`` held; False where it was already. IndexError out of range."""
        if not 0 <= piece < self.count:
            raise IndexError(f"piece {piece} of {self.count}")
        mask = 0x80 >> (piece & 7)
        if self._bits[piece >> 3] & mask:
            return False
        self._bits[piece >> 3] |= mask
        self._held += 1
        return True

    def discard(self, piece: int) -> None:
        """Mark ``piece`` not held."""
        if piece in self:
            self._bits[piece >> 3] &= ~(0x80 >> (piece & 7)) & 0xFF
            self._held -= 1

    def __len__(self) -> int:
        """How many pieces are held."""
        return self._held

    def __iter__(self) -> Iterator[int]:
        """The pieces held, ascending."""
        for position, byte in enumerate(self._bits):
            if byte:
                for bit in range(8):
                    if byte & (0x80 >> bit):
                        yield position * 8 + bit

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bitfield) and self.count == other.count and self._bits == other._bits

    __hash__ = None  # type: ignore[assignment]  # mutable

    @property
    def complete(self) -> bool:
        """True where every piece is held."""
        return self._held == self.count

    def __bytes__(self) -> bytes:
        return bytes(self._bits)

    def copy(self) -> Bitfield:
        """An independent copy."""
        return Bitfield(self.count, bytes(self._bits))

    def runs(self) -> list[tuple[int, int]]:
        """The pieces held as half-open runs, ascending: [(first, end), ...]."""
        found: list[tuple[int, int]] = []
        for piece in self:
            if found and found[-1][1] == piece:
                found[-1] = (found[-1][0], piece + 1)
            else:
                found.append((piece, piece + 1))
        return found


def format_runs(runs: Iterable[tuple[int, int]]) -> str:
    """Runs as a person writes them: ``0-3,7`` for [(0, 4), (7, 8)]."""
    return ",".join(f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in runs)


def parse_runs(text: str, count: int) -> Bitfield:
    """The reverse of :func:`format_runs`; ValueError for anything else, out of range or out of order."""
    field = Bitfield(count)
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
        for piece in range(low, high + 1):
            field.add(piece)
    return field
