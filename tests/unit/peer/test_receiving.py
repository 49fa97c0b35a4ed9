"""Sinks: bytes become verified pieces, in whatever portions they come."""

from __future__ import annotations

import os

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.errors import ProtocolError, StorageError
from p2pd.fetch.picker import Run
from p2pd.model import Manifest
from p2pd.peer import receiving
from p2pd.peer.receiving import BufferPool, RangeSink
from p2pd.wire.messages import MAX_FRAME, Data


def manifest_of(content: bytes, piece_size: int) -> Manifest:
    hashes = b"".join(
        blake3.blake3(content[at : at + piece_size]).digest() for at in range(0, len(content), piece_size)
    )
    return Manifest(len(content), piece_size, hashes)


class Disk:
    """Where a sink writes, and who it tells."""

    def __init__(self, size: int) -> None:
        self.content = bytearray(size)
        self.pieces: list[tuple[int, bool]] = []
        self.failed: list[StorageError] = []
        self.progress = 0
        self.full = False

    def write(self, offset: int, data: memoryview) -> None:
        if self.full:
            raise StorageError("full")
        self.content[offset : offset + len(data)] = data

    def sink_progressed(self, sink: RangeSink, count: int) -> None:
        self.progress += count

    def sink_piece(self, sink: RangeSink, piece: int, right: bool) -> None:
        self.pieces.append((piece, right))

    def sink_failed(self, sink: RangeSink, error: StorageError) -> None:
        self.failed.append(error)


def sink_for(disk: Disk, manifest: Manifest, run: Run, whole: bool = False) -> RangeSink:
    return RangeSink(
        1, run, manifest=manifest, write=disk.write, listener=disk, pool=BufferPool(), whole=whole
    )


def feed(sink: RangeSink, data: bytes, portions: list[int]) -> None:
    at = sink.offset
    view = memoryview(data)
    while view:
        frame = min(len(view), MAX_FRAME, max(portions[0], 1) * 7)
        sink.frame(Data(1, at, frame))
        left = view[:frame]
        while left:
            target = sink.target()
            assert len(target) > 0
            portions.append(portions.pop(0))
            step = min(len(target), len(left), max(portions[0], 1))
            target[:step] = left[:step]
            sink.received(step)
            left = left[step:]
        at += frame
        view = view[frame:]


@settings(deadline=None)
@given(
    st.integers(1, 5000),
    st.integers(1, 1200),
    st.booleans(),
    st.lists(st.integers(1, 3000), min_size=1, max_size=6),
)
def test_any_portions_give_the_same_pieces(
    size: int, piece_size: int, whole: bool, portions: list[int]
) -> None:
    content = os.urandom(size)
    manifest = manifest_of(content, piece_size)
    disk = Disk(size)
    sink = sink_for(disk, manifest, Run(0, manifest.count), whole)
    feed(sink, content, portions)
    assert sink.finished
    assert disk.pieces == [(piece, True) for piece in range(manifest.count)]
    assert bytes(disk.content) == content
    assert disk.progress == size


@pytest.mark.parametrize("whole", [True, False])
def test_pieces_longer_than_a_step(whole: bool) -> None:
    piece_size = 2 * receiving.STEP + 12345
    content = os.urandom(2 * piece_size + 99)
    manifest = manifest_of(content, piece_size)
    disk = Disk(len(content))
    sink = sink_for(disk, manifest, Run(1, 3), whole)
    feed(sink, content[piece_size:], [700_000])
    assert disk.pieces == [(1, True), (2, True)]
    assert bytes(disk.content[piece_size:]) == content[piece_size:]


@given(st.integers(0, 999))
def test_every_flipped_byte_is_seen(position: int) -> None:
    content = os.urandom(1000)
    manifest = manifest_of(content, 300)
    damaged = bytearray(content)
    damaged[position] ^= 1
    disk = Disk(1000)
    feed(sink_for(disk, manifest, Run(0, 4)), bytes(damaged), [50])
    assert [piece for piece, right in disk.pieces if not right] == [position // 300]
    # A short piece that is wrong is never written.
    wrong = slice(position // 300 * 300, position // 300 * 300 + 300)
    assert not any(disk.content[wrong])


@pytest.mark.parametrize(("offset", "length"), [(1, 10), (0, 1001), (0, MAX_FRAME)])
def test_frames_that_do_not_fit_are_refused(offset: int, length: int) -> None:
    manifest = manifest_of(bytes(1000), 300)
    with pytest.raises(ProtocolError):
        sink_for(Disk(1000), manifest, Run(0, 4)).frame(Data(1, offset, length))


def test_a_frame_within_a_frame_is_refused() -> None:
    sink = sink_for(Disk(1000), manifest_of(bytes(1000), 300), Run(0, 4))
    sink.frame(Data(1, 0, 10))
    with pytest.raises(ProtocolError):
        sink.frame(Data(1, 10, 10))


def test_what_is_discarded_is_not_written() -> None:
    content = os.urandom(1000)
    disk = Disk(1000)
    sink = sink_for(disk, manifest_of(content, 300), Run(0, 4))
    feed(sink, content[:350], [350])
    sink.discard()
    sink.frame(Data(1, 350, 650))
    while sink.frame_left:
        step = min(len(sink.target()), sink.frame_left)
        sink.received(step)
    assert sink.finished
    assert disk.pieces == [(0, True)]
    assert not any(disk.content[300:])
    assert disk.progress == 1000


def test_a_full_disk_is_told_once() -> None:
    content = os.urandom(1000)
    disk = Disk(1000)
    disk.full = True
    sink = sink_for(disk, manifest_of(content, 300), Run(0, 4))
    feed(sink, content, [1000])
    assert [str(error) for error in disk.failed] == ["full"]
    assert disk.pieces == []
