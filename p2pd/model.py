"""The values that everything speaks of: frozen, checked where they are made."""

from __future__ import annotations

import re
from typing import NewType

import attrs
import blake3

from p2pd.pieces import HASH_SIZE, MAX_PIECES, MAX_SIZE, piece_count, piece_length

PeerId = NewType("PeerId", str)
"""32 lower-case hex digits, random, kept in the state folder."""
FileId = NewType("FileId", str)
"""64 lower-case hex digits: the BLAKE3 of the manifest."""
TransferId = NewType("TransferId", str)
"""12 lower-case hex digits, random, stable over restarts."""

_PEER_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_FILE_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


def is_peer_id(text: str) -> bool:
    """True for 32 lower-case hex digits."""
    return _PEER_ID.fullmatch(text) is not None


def is_file_id(text: str) -> bool:
    """True for 64 lower-case hex digits."""
    return _FILE_ID.fullmatch(text) is not None


@attrs.frozen
class PeerInfo:
    """An active peer: where to reach it, and its name among people."""

    id: PeerId
    name: str
    host: str
    port: int


@attrs.frozen
class Manifest:
    """What a file is: size, piece size and the BLAKE3 hash of every piece, concatenated."""

    size: int
    piece_size: int
    hashes: bytes = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        check_dimensions(self.size, self.piece_size)
        wanted = piece_count(self.size, self.piece_size) * HASH_SIZE
        if len(self.hashes) != wanted:
            raise ValueError(f"{wanted} bytes of piece hashes expected, {len(self.hashes)} given")

    @property
    def count(self) -> int:
        """How many pieces."""
        return len(self.hashes) // HASH_SIZE

    def length(self, piece: int) -> int:
        """Length of ``piece`` in bytes."""
        return piece_length(piece, self.size, self.piece_size)

    def hash_of(self, piece: int) -> bytes:
        """The 32 bytes that ``piece`` must hash to."""
        return self.hashes[piece * HASH_SIZE : (piece + 1) * HASH_SIZE]

    @property
    def file_id(self) -> FileId:
        """BLAKE3 over ``p2pd manifest 1\\n``, size and piece size as 8 bytes big-endian, hashes."""
        hasher = blake3.blake3(b"p2pd manifest 1\n")
        hasher.update(self.size.to_bytes(8, "big"))
        hasher.update(self.piece_size.to_bytes(8, "big"))
        hasher.update(self.hashes)
        return FileId(hasher.hexdigest())


def check_dimensions(size: int, piece_size: int) -> None:
    """ValueError where no manifest of this size and piece size can be."""
    if not 0 <= size <= MAX_SIZE:
        raise ValueError(f"size {size} out of range")
    if not 1 <= piece_size <= MAX_SIZE:
        raise ValueError(f"piece size {piece_size} out of range")
    if piece_count(size, piece_size) > MAX_PIECES:
        raise ValueError(f"more than {MAX_PIECES} pieces")


@attrs.frozen
class Offer:
    """What a `have` says of a file."""

    name: str
    size: int
    piece_size: int
    file_id: FileId


@attrs.frozen
class ByteRange:
    """``length`` bytes from ``offset``."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte after the range."""
        return self.offset + self.length
