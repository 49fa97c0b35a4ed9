from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.errors import StorageError
from p2pd.model import FileId, TransferId
from p2pd.pieces import Bitfield
from p2pd.share.hashing import Cancelled
from p2pd.share.job import Job, dump_job, parse_job
from p2pd.share.partial import PartialFile, PartialStore, dump_manifest, parse_manifest
from p2pd.share.paths import ShareRoot

from .conftest import ALL, DATA, JOB, MANIFEST, PIECE, load, manifest_of, ours


def test_nothing_is_made_before_it_is_needed(share: ShareRoot) -> None:
    assert load(share) == ([], [])
    assert os.listdir(share.path) == []


def test_a_job_and_its_pieces_come_back(share: ShareRoot, store: PartialStore) -> None:
    store.save_job(JOB)
    assert load(share) == ([(JOB, None, Bitfield(0))], [])
    assert stat.S_IMODE(os.stat(f"{share.path}/.p2pd").st_mode) == 0o700
    partial = store.begin(JOB, MANIFEST)
    held = Bitfield.of(MANIFEST.count, [0, 1, 2, 7])
    partial.save(held)
    job = attrs.evolve(JOB, file_id=MANIFEST.file_id, size=len(DATA), piece_size=PIECE)
    assert partial.job == job
    resumed = attrs.evolve(job, paused=False)
    store.save_job(resumed)  # does not forget the pieces
    assert load(share) == ([(resumed, MANIFEST, held)], [])
    partial.close()


def test_the_state_is_for_people_too(share: ShareRoot, partial: PartialFile) -> None:
    text = ours(share, "state").read_text()
    state = json.loads(text)
    assert state["format"] == 1
    assert state["pieces"] == f"0-{MANIFEST.count - 1}"
    assert list(state) == sorted(state)
    assert text.count("\n") > 10


def test_the_data_gets_its_name(share: ShareRoot, store: PartialStore, partial: PartialFile) -> None:
    assert partial.rehash(ALL) == ALL
    assert partial.digest() == hashlib.sha256(DATA).hexdigest()
    umask = os.umask(0o022)
    os.umask(umask)
    partial.finish(JOB.target)
    final = Path(share.path, JOB.name)
    assert final.read_bytes() == DATA
    assert stat.S_IMODE(final.stat().st_mode) == 0o666 & ~umask
    # The manifest stays until it is kept elsewhere.
    kinds = sorted(name.split(".")[1] for name in os.listdir(f"{share.path}/.p2pd"))
    assert kinds == ["manifest", "state"]
    again = PartialStore(share)
    partial.save(ALL)
    store.close()
    assert again.load() == []
    assert again.renamed == [(JOB.target, MANIFEST)]
    again.close()
    store.discard(JOB.transfer)
    assert os.listdir(f"{share.path}/.p2pd") == []
    store.save_job(JOB)  # what comes too late does not bring the transfer back
    partial.save(ALL)
    assert load(share) == ([], [])


@pytest.mark.fault(44)
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_sizes(share: ShareRoot, store: PartialStore, size: int) -> None:
    manifest = manifest_of(DATA[:size])
    partial = store.begin(JOB, manifest)
    for piece in range(manifest.count):
        partial.write(piece * PIECE, memoryview(DATA)[piece * PIECE : piece * PIECE + manifest.length(piece)])
    full = Bitfield.full(manifest.count)
    assert partial.rehash(full) == full
    assert partial.digest() == hashlib.sha256(DATA[:size]).hexdigest()
    with pytest.raises(ValueError, match="beyond"):
        partial.write(size, b"x")
    partial.finish("f")
    partial.close()
    partial.close()
    assert Path(share.path, "f").read_bytes() == DATA[:size]


@pytest.mark.fault(46)
def test_bit_rot_is_found(share: ShareRoot, partial: PartialFile) -> None:
    with open(ours(share, "part"), "r+b") as file:
        file.seek(250)
        file.write(b"!")
    good = partial.rehash(ALL)
    assert set(ALL) - set(good) == {2}
    assert list(partial.rehash(Bitfield.of(MANIFEST.count, [1, 2]))) == [1]
    with pytest.raises(Cancelled):
        partial.rehash(ALL, lambda: True)
    with pytest.raises(Cancelled):
        partial.digest(cancelled=lambda: True)


@pytest.mark.fault(55)
@pytest.mark.parametrize("size", [None, 0, 250])
def test_a_part_that_is_short(share: ShareRoot, partial: PartialFile, size: int | None) -> None:
    if size is None:
        ours(share, "part").unlink()
    else:
        os.truncate(ours(share, "part"), size)
        assert list(partial.rehash(ALL)) == list(range(size // PIECE))
        with pytest.raises(StorageError):
            partial.digest()
    [(_, manifest, held)], problems = load(share)
    assert manifest == MANIFEST
    assert list(held) == list(range((size or 0) // PIECE))
    assert problems == []


@pytest.mark.fault(54)
@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"junk",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"format": 2}',
        b'{"format": true}',
        b"\0" * 4096,
    ],
)
def test_a_state_that_is_no_good_is_dropped(share: ShareRoot, partial: PartialFile, junk: bytes) -> None:
    ours(share, "state").write_bytes(junk)
    jobs, problems = load(share)
    assert jobs == []
    assert len(problems) == 1
    assert os.listdir(f"{share.path}/.p2pd") == []


@pytest.mark.fault(54)
@given(st.data())
@settings(max_examples=300)
def test_any_flipped_bit_of_the_state_is_noticed(data: st.DataObject) -> None:
    state = bytearray(dump_job(JOB, "0-3,7"))
    at = data.draw(st.integers(0, len(state) - 1))
    state[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        stored = parse_job(bytes(state))
    except ValueError:
        return
    assert stored.job == JOB  # only white space, or the case of an escape
    assert stored.pieces == "0-3,7"


@pytest.mark.fault(54)
@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../x"},
        {"output": "/etc/passwd"},
        {"transfer": "x" * 12},
        {"file_id": "no"},
        {"sha256": "no"},
        {"size": -1},
        {"size": True},
        {"paused": None},
        {"piece_size": 0, "size": 1},
        {"created": "now"},
        {"name": None},
    ],
)
def test_a_state_with_a_good_check_is_looked_at_all_the_same(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_job(dump_job(attrs.evolve(JOB, **wrong), ""))


@given(st.builds(Job, st.just(JOB.transfer), st.just("n"), sources=st.lists(st.text()).map(tuple)))
def test_states_come_back(job: Job) -> None:
    assert parse_job(dump_job(job, "1", True)).job == job


@pytest.mark.fault(54)
def test_damaged_piece_hashes_cost_fetching_again(share: ShareRoot, partial: PartialFile) -> None:
    good = ours(share, "manifest").read_bytes()
    assert good == dump_manifest(MANIFEST)
    for junk in (b"", b"short", good[:-1], good[:20] + b"!" + good[21:], b"\xff" * 16 + good[16:]):
        ours(share, "manifest").write_bytes(junk)
        [(job, manifest, held)], problems = load(share)
        assert (job.transfer, manifest, held) == (JOB.transfer, None, Bitfield(0))
        assert len(problems) == 1
    ours(share, "manifest").unlink()
    assert load(share)[0][0][1] is None


@pytest.mark.parametrize("junk", [b"", b"short", dump_manifest(MANIFEST)[:-1], b"\xff" * 48])
def test_piece_hashes_that_are_none(junk: bytes) -> None:
    assert parse_manifest(dump_manifest(MANIFEST)) == MANIFEST
    with pytest.raises(ValueError, match=r"short|pieces|range|hashes"):
        parse_manifest(junk)


def test_pieces_that_cannot_be_are_not_held(share: ShareRoot, partial: PartialFile) -> None:
    ours(share, "state").write_bytes(dump_job(partial.job, "0-99999"))
    [(_, manifest, held)], problems = load(share)
    assert manifest == MANIFEST
    assert len(held) == 0
    assert len(problems) == 1


def test_what_belongs_to_no_job_is_removed_and_what_is_not_ours_stays(
    share: ShareRoot, store: PartialStore
) -> None:
    store.save_job(JOB)
    folder = Path(share.path, ".p2pd")
    for name in ("ffffffffffff.part", "ffffffffffff.manifest", "ffffffffffff.state.tmp", "notes.txt"):
        (folder / name).write_bytes(b"x")
    assert len(load(share)[0]) == 1
    assert sorted(os.listdir(folder)) == [f"{JOB.transfer}.state", "notes.txt"]


def test_another_content_starts_without_pieces(
    share: ShareRoot, store: PartialStore, partial: PartialFile
) -> None:
    partial.close()
    other = store.begin(partial.job, manifest_of(b"other"))
    [(job, manifest, held)], _ = load(share)
    assert (job.file_id, len(held)) == (other.manifest.file_id, 0)
    assert manifest == other.manifest
    assert ours(share, "part").stat().st_size == 5
    other.close()


def test_the_same_content_goes_on(share: ShareRoot, store: PartialStore, partial: PartialFile) -> None:
    partial.close()
    again = store.begin(partial.job, MANIFEST)
    assert again.rehash(ALL) == ALL
    assert len(load(share)[0][0][2]) == MANIFEST.count
    again.close()


def test_discard_leaves_nothing(share: ShareRoot, store: PartialStore, partial: PartialFile) -> None:
    store.discard(JOB.transfer)
    assert os.listdir(f"{share.path}/.p2pd") == []
    partial.save(ALL)
    assert load(share) == ([], [])
    PartialStore(share).discard(TransferId("ffffffffffff"))


def test_a_transfer_finishes_under_another_name_than_it_was_asked_by(
    share: ShareRoot, store: PartialStore
) -> None:
    job = attrs.evolve(JOB, output="else/where", file_id=FileId("0" * 64))
    partial = store.begin(job, MANIFEST)
    partial.write(0, DATA)
    partial.finish(job.target)
    partial.close()
    assert Path(share.path, "else/where").read_bytes() == DATA
