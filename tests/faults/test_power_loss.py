"""The power goes: at any moment of a transfer, with any legal part of what was not synced on the disk."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.model import TransferId
from p2pd.pieces import Bitfield
from p2pd.share.job import Job
from p2pd.share.partial import PartialStore
from p2pd.share.paths import ShareRoot
from tests.rig.crash import CrashDisk, Write
from tests.rig.false_peer import manifest_of

PIECE = 2000
CONTENT = random.Random(53).randbytes(5 * PIECE + 77)
MANIFEST = manifest_of(CONTENT, PIECE)
OLD = b"what was here before"


@attrs.frozen
class Recorded:
    """A transfer from its `req` to the removal of its state; each point in it is a number of operations."""

    disk: CrashDisk
    job: Job
    promised: int
    """From here on it was said to survive."""
    finished: int
    """From here on the file was said to be there."""
    begun: int
    """Until here nothing but the job was known."""


def transfer(folder: Path, name: str, replace: bool) -> Recorded:
    """Fetch, as a daemon does: pieces out of order, the state written now and then."""
    share = folder / "share"
    share.mkdir()
    (share / "other").write_bytes(b"bystander")
    if replace:
        (share / name).write_bytes(OLD)
    disk = CrashDisk(share)
    with pytest.MonkeyPatch.context() as patch:
        disk.wire(patch.setattr)
        root = ShareRoot.open(str(share))
        store = PartialStore(root)
        job = Job(TransferId("0123456789ab"), name, replace=replace, created=1)
        store.save_job(job)
        promised = len(disk.ops)
        file = store.begin(job, MANIFEST)
        begun = len(disk.ops)
        held = Bitfield(MANIFEST.count)
        for number, piece in enumerate((3, 0, 5, 1, 4, 2)):
            at = piece * PIECE
            for step in range(at, at + MANIFEST.length(piece), 700):  # a piece comes in steps
                file.write(step, CONTENT[step : min(step + 700, at + MANIFEST.length(piece))])
            held.add(piece)
            if number % 2:
                file.save(held)
        file.finish(name, replace)
        finished = len(disk.ops)
        file.close()
        store.discard(job.transfer)
        store.close()
        root.close()
    return Recorded(disk, job, promised, finished, begun)


def check(recorded: Recorded, share: Path, until: int) -> None:
    """What must hold of a share as it is found, and of a daemon that starts on it."""
    name = recorded.job.target
    final = share / name
    old = OLD if recorded.job.replace else None

    def named() -> bytes | None:
        return final.read_bytes() if final.exists() else None

    # No final name with a wrong content, and no file lost that was said to be there.
    assert named() in ((CONTENT,) if until >= recorded.finished else (CONTENT, old)), until
    assert (share / "other").read_bytes() == b"bystander"
    root = ShareRoot.open(str(share))
    store = PartialStore(root)
    jobs = store.load()
    known = bool(jobs)
    if recorded.promised <= until <= recorded.begun:
        assert known, "a job that was promised is there"
    for job, manifest, claimed in jobs:
        assert job.transfer == recorded.job.transfer
        assert manifest in (None, MANIFEST)
        file = store.begin(job, MANIFEST)
        held = file.rehash(claimed)
        data = (share / f".p2pd/{job.transfer}.part").read_bytes()
        for piece in held:
            at = piece * PIECE
            assert data[at : at + PIECE] == CONTENT[at : at + PIECE], "counted, and not there"
        # It goes on from there to the end.
        for piece in range(MANIFEST.count):
            if piece not in held:
                file.write(piece * PIECE, CONTENT[piece * PIECE : (piece + 1) * PIECE])
        if named() != CONTENT:
            file.finish(job.target, job.replace)
            assert named() == CONTENT
        file.close()
        store.discard(job.transfer)
    if not known:
        # Either nothing was begun, or it is over, or the state was lost: it can be asked for anew.
        assert named() in (None, OLD, CONTENT)
        if named() is None:
            file = store.begin(recorded.job, MANIFEST)
            file.write(0, CONTENT)
            file.finish(name)
            file.close()
            store.discard(recorded.job.transfer)
            assert named() == CONTENT
    store.close()
    root.close()
    assert not list((share / ".p2pd").iterdir()) if (share / ".p2pd").exists() else True


@pytest.fixture(scope="module", params=[("f", False), ("sub/deep/f", False), ("f", True)])
def recorded(request: pytest.FixtureRequest) -> Iterator[Recorded]:
    folder = Path(tempfile.mkdtemp(prefix="p2pt"))
    made = transfer(folder, *request.param)
    yield made
    made.disk.let_go()
    shutil.rmtree(folder)


def crash(recorded: Recorded, until: int, chance: random.Random, share: float) -> None:
    with tempfile.TemporaryDirectory(prefix="p2pt") as folder:
        found = Path(folder) / "share"
        recorded.disk.left(until, chance, share, found)
        check(recorded, found, until)


@pytest.mark.fault(53)
def test_the_recording_is_of_a_whole_transfer(recorded: Recorded) -> None:
    """Without this the tests below would prove less than they say."""
    written = [op for op in recorded.disk.ops if isinstance(op, Write)]
    assert sum(len(op.data) for op in written if op.data in CONTENT) >= len(CONTENT)
    assert 0 < recorded.promised < recorded.begun < recorded.finished < len(recorded.disk.ops)
    with tempfile.TemporaryDirectory(prefix="p2pt") as folder:
        found = Path(folder) / "share"
        recorded.disk.left(len(recorded.disk.ops), random.Random(0), 1.1, found)
        assert {path.name for path in found.rglob("*") if path.is_file()} == {
            Path(recorded.job.name).name,
            "other",
        }


@pytest.mark.fault(53)
@pytest.mark.parametrize("share", [0.0, 1.1], ids=["nothing-unsynced", "all"])
def test_the_power_goes_at_each_operation(recorded: Recorded, share: float) -> None:
    for until in range(len(recorded.disk.ops) + 1):
        crash(recorded, until, random.Random(until), share)


@pytest.mark.fault(53)
def test_any_part_of_what_was_not_synced_is_left(recorded: Recorded) -> None:
    @settings(max_examples=150, deadline=None, database=None)
    @given(where=st.floats(0, 1), chance=st.randoms(use_true_random=False), share=st.floats(0.05, 0.95))
    def power_goes(where: float, chance: random.Random, share: float) -> None:
        crash(recorded, round(where * len(recorded.disk.ops)), chance, share)

    power_goes()
