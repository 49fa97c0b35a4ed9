"""Sinks: bytes become verified pieces, in whatever portions they come."""

from __future__ import annotations

import os
from collections.abc import Callable

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.errors import ProtocolError
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
    """Where a sink's data go, and who it tells. ``lazy``: nothing is written before a page is full."""

    def __init__(self, size: int, *, lazy: bool = False) -> None:
        self.content = bytearray(size)
        self.pieces: list[tuple[int, bool]] = []
        self.written: list[int] = []
        self.writes = 0
        self.progress = 0
        self.lazy = lazy
        self.unneeded: set[int] = set()
        self.waiting: list[Callable[[], None]] = []

    def sink_progressed(self, sink: RangeSink, count: int) -> None:
        self.progress += count

    def sink_piece(self, sink: RangeSink, piece: int, right: bool) -> bool:
        self.pieces.append((piece, right))
        return right and piece not in self.unneeded

    def sink_write(
        self, offset: int, data: memoryview, pieces: tuple[int, ...], release: Callable[[], None]
    ) -> None:
        def write() -> None:
            self.content[offset : offset + len(data)] = data
            self.written.extend(pieces)
            release()

        self.writes += 1
        self.waiting.append(write)

    def catch_up(self) -> None:
        """All that was given away so far is written only now: its memory must not have been used again."""
        waiting, self.waiting = self.waiting, []
        for write in waiting:
            write()

    def sink_eager(self, sink: RangeSink) -> bool:
        return not self.lazy


def sink_for(
    disk: Disk, manifest: Manifest, run: Run, whole: bool = False, pool: BufferPool | None = None
) -> RangeSink:
    return RangeSink(1, run, manifest=manifest, listener=disk, pool=pool or BufferPool(), whole=whole)


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
    st.booleans(),
    st.lists(st.integers(1, 3000), min_size=1, max_size=6),
)
def test_any_portions_give_the_same_pieces(
    size: int, piece_size: int, whole: bool, lazy: bool, portions: list[int]
) -> None:
    content = os.urandom(size)
    manifest = manifest_of(content, piece_size)
    disk = Disk(size, lazy=lazy)
    sink = sink_for(disk, manifest, Run(0, manifest.count), whole)
    feed(sink, content, portions)
    disk.catch_up()
    assert sink.finished
    assert disk.pieces == [(piece, True) for piece in range(manifest.count)]
    assert disk.written == list(range(manifest.count))
    assert bytes(disk.content) == content
    assert disk.progress == size


@pytest.mark.parametrize("piece_size", [receiving.STEP, receiving.STEP // 4, 400_000])
def test_what_waits_is_written_a_page_at_a_time(piece_size: int) -> None:
    content = os.urandom(3 * receiving.STEP)
    manifest = manifest_of(content, piece_size)
    disk = Disk(len(content), lazy=True)
    feed(sink_for(disk, manifest, Run(0, manifest.count)), content, [500_000])
    disk.catch_up()
    assert bytes(disk.content) == content
    assert disk.writes == -(-manifest.count // (receiving.STEP // piece_size))


def test_memory_goes_back_to_the_pool_once_it_is_written() -> None:
    content = os.urandom(4 * receiving.STEP)
    manifest = manifest_of(content, receiving.STEP)
    disk, pool = Disk(len(content)), BufferPool()
    sink = sink_for(disk, manifest, Run(0, 4), pool=pool)
    feed(sink, content, [500_000])
    disk.catch_up()
    pages = [pool.take(receiving.STEP) for _ in range(4)]
    assert len({id(page) for page in pages}) == 4
    for page in pages:
        page.drop()
    again = [pool.take(receiving.STEP) for _ in range(4)]
    assert {id(page) for page in again} == {id(page) for page in pages}


@pytest.mark.parametrize("whole", [True, False])
def test_pieces_longer_than_a_step(whole: bool) -> None:
    piece_size = 2 * receiving.STEP + 12345
    content = os.urandom(2 * piece_size + 99)
    manifest = manifest_of(content, piece_size)
    disk = Disk(len(content))
    sink = sink_for(disk, manifest, Run(1, 3), whole)
    feed(sink, content[piece_size:], [700_000])
    disk.catch_up()
    assert disk.pieces == [(1, True), (2, True)]
    assert disk.written == [1, 2]
    assert bytes(disk.content[piece_size:]) == content[piece_size:]


@given(st.integers(0, 999), st.booleans())
def test_every_flipped_byte_is_seen(position: int, lazy: bool) -> None:
    content = os.urandom(1000)
    manifest = manifest_of(content, 300)
    damaged = bytearray(content)
    damaged[position] ^= 1
    disk = Disk(1000, lazy=lazy)
    feed(sink_for(disk, manifest, Run(0, 4)), bytes(damaged), [50])
    disk.catch_up()
    assert [piece for piece, right in disk.pieces if not right] == [position // 300]
    assert disk.written == [piece for piece in range(4) if piece != position // 300]
    # A short piece that is wrong is never written.
    wrong = slice(position // 300 * 300, position // 300 * 300 + 300)
    assert not any(disk.content[wrong])


def test_what_is_not_needed_is_not_written() -> None:
    content = os.urandom(1000)
    disk = Disk(1000, lazy=True)
    disk.unneeded = {1}
    feed(sink_for(disk, manifest_of(content, 300), Run(0, 4)), content, [1000])
    disk.catch_up()
    assert disk.written == [0, 2, 3]
    assert bytes(disk.content) == content[:300] + bytes(300) + content[600:]


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


@pytest.mark.parametrize("lazy", [True, False])
def test_what_is_discarded_is_not_written_but_whole_pieces_before_are(lazy: bool) -> None:
    content = os.urandom(1000)
    disk = Disk(1000, lazy=lazy)
    sink = sink_for(disk, manifest_of(content, 300), Run(0, 4))
    feed(sink, content[:350], [350])
    sink.discard()
    sink.frame(Data(1, 350, 650))
    while sink.frame_left:
        step = min(len(sink.target()), sink.frame_left)
        sink.received(step)
    disk.catch_up()
    assert sink.finished
    assert disk.pieces == [(0, True)]
    assert disk.written == [0]
    assert bytes(disk.content) == content[:300] + bytes(700)
    assert disk.progress == 1000


def test_what_waits_to_be_more_can_be_written_now() -> None:
    content = os.urandom(1000)
    disk = Disk(1000, lazy=True)
    sink = sink_for(disk, manifest_of(content, 300), Run(0, 4))
    feed(sink, content[:650], [650])
    disk.catch_up()
    assert not disk.written
    sink.flush()
    disk.catch_up()
    assert disk.written == [0, 1]
    assert bytes(disk.content) == content[:600] + bytes(400)


def test_a_discarded_step_of_a_long_piece_is_not_written() -> None:
    content = os.urandom(2 * receiving.STEP)
    disk = Disk(len(content))
    sink = sink_for(disk, manifest_of(content, len(content)), Run(0, 1))
    feed(sink, content[: receiving.STEP + 100], [500_000])
    sink.discard()
    disk.catch_up()
    assert not disk.written
    assert not any(disk.content[receiving.STEP :])
