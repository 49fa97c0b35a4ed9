"""Arithmetic on pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd import pieces
from p2pd.errors import UsageError
from p2pd.model import FileId, Manifest
from p2pd.pieces import Bitfield
from p2pd.sizes import parse_size


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (0, 65536),
        (1, 65536),
        (65536 * 500, 65536),
        (2 * 65536 * 500 - 1, 65536),
        (2 * 65536 * 500, 131072),
        (4 * 65536 * 500, 131072),
        (2**27, 131072),
        (4 * 65536 * 1000 - 1, 131072),
        (4 * 65536 * 1000, 262144),
        (2**28, 262144),
        (8 * 65536 * 2000 - 1, 262144),
        (8 * 65536 * 2000, 524288),
        (2**30, 524288),
        (16 * 2**30, 4 * 2**20),
        (2**42, 4 * 2**20),
        (2**43, 8 * 2**20),
    ],
)
def test_default_piece_size(size: int, wanted: int) -> None:
    assert pieces.default_piece_size(size) == wanted


@given(st.integers(0, 2**63 - 1))
def test_default_piece_size_always_fits_a_manifest(size: int) -> None:
    piece = pieces.default_piece_size(size)
    assert piece & (piece - 1) == 0
    assert pieces.piece_count(size, piece) <= pieces.MAX_PIECES


@given(st.integers(1, 20), st.integers(0, 500))
def test_shares_cover_everything_once(holders: int, count: int) -> None:
    covered: list[int] = []
    for rank in range(holders):
        covered += range(*pieces.share_bounds(rank, holders, count))
    assert covered == list(range(count))


@pytest.mark.fault(44)
@given(st.integers(0, 10_000), st.integers(1, 300))
def test_lengths_of_pieces_add_up(size: int, piece_size: int) -> None:
    count = pieces.piece_count(size, piece_size)
    lengths = [pieces.piece_length(index, size, piece_size) for index in range(count)]
    assert sum(lengths) == size
    assert all(length == piece_size for length in lengths[:-1])
    assert all(0 < length <= piece_size for length in lengths)


@given(st.integers(0, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, max(n - 1, 0))))))
def test_bitfield_round_trips(case: tuple[int, set[int]]) -> None:
    count, held = case
    held = {piece for piece in held if piece < count}
    field = Bitfield.of(count, held)
    assert set(field) == held
    assert len(field) == len(held)
    assert Bitfield(count, bytes(field)) == field
    assert pieces.parse_runs(pieces.format_runs(field.runs()), count) == field
    for piece in list(held):
        field.discard(piece)
    assert len(field) == 0
    assert Bitfield.full(count).complete


@pytest.mark.parametrize(
    ("count", "bits"), [(8, b""), (8, b"\0\0"), (4, b"\x08"), (0, b"\0"), (9, b"\xff\x40")]
)
def test_bitfields_of_the_wrong_form(count: int, bits: bytes) -> None:
    with pytest.raises(ValueError, match="bitfield"):
        Bitfield(count, bits)


@pytest.mark.parametrize("text", ["1-", "-1", "3-2", "1,,2", "a", "10", "1_0", "１", "0-9"])
def test_runs_of_the_wrong_form(text: str) -> None:
    with pytest.raises(ValueError, match="piece"):
        pieces.parse_runs(text, 9)


def test_pieces_out_of_range() -> None:
    with pytest.raises(IndexError):
        Bitfield(8).add(8)
    assert 9 not in Bitfield.full(8)
    assert -1 not in Bitfield.full(8)


@pytest.mark.parametrize(
    ("size", "piece_size", "hashes"), [(-1, 1, b""), (1, 0, b""), (10, 5, b"x" * 32), (2**40, 1, b"")]
)
def test_manifests_of_the_wrong_form(size: int, piece_size: int, hashes: bytes) -> None:
    with pytest.raises(ValueError, match=r"size|hashes|pieces"):
        Manifest(size, piece_size, hashes)


def test_the_file_id_depends_on_everything() -> None:
    a = Manifest(10, 5, b"x" * 64).file_id
    others = {
        Manifest(10, 5, b"y" * 64).file_id,
        Manifest(9, 5, b"x" * 64).file_id,
        Manifest(10, 6, b"x" * 64).file_id,
    }
    assert len(others | {a}) == 4
    # Part of protocol version 1: fixed for good.
    assert Manifest(0, 65536, b"").file_id == FileId(
        "c033892d731a66e8d1dafbc7ca1010c04e15ad02b7a7c52f695e40fa6a77d862"
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("100K", 100_000),
        ("1Ki", 1024),
        ("1.5M", 1_500_000),
        ("2Gi", 2**31),
        ("5MB", 5_000_000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "1k", "1_0", "１", " 7", "1e3", "9" * 19 + "G", "inf"])
def test_sizes_of_the_wrong_form(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@given(st.sets(st.integers(0, 300), max_size=80))
def test_few_runs_and_many_are_found_and_read_alike(held: set[int]) -> None:
    """Few are looked for one by one, many in the digits of the whole number."""
    mask = pieces.mask_of(held)
    found = pieces.mask_runs(mask)
    assert [piece for low, end in found for piece in range(low, end)] == sorted(held)
    assert all(end < low for (_, end), (low, _) in pairwise(found)), "as long as they can be"
    assert pieces.parse_mask(pieces.format_runs(found), 301) == mask
