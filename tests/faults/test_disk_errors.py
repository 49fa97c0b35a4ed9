"""Disks that err, and data that rots: one transfer's trouble, never believed, never silent."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from p2pd.wire import messages as m
from tests.faults.test_storage import PIECE, false_holder, held_in, until_bytes
from tests.rig import Daemon, Host, Oracle, Raw
from tests.rig.host import wait_until, write_file


def inject(
    daemon: Daemon, call: str, how: str, path: Path | None = None, cold: bool = False
) -> subprocess.Popen[str]:
    """From now on that call (on ``path``) of the daemon fails so, until the tracer ends.

    ``cold``: none of it seems to be in memory. To make it so would not last: to ask whether a page is
    there begins to read what follows it, on some disks 8 MiB.
    """
    only = ["-P", str(path)] if path is not None else []
    if cold:
        only += ["-e", "inject=preadv2:error=EAGAIN"]
    calls = f"{call},preadv2" if cold else call
    trace = daemon.host.folder / f"trace-{call}"
    tracer = subprocess.Popen(
        ["strace", "-f", "-o", str(trace), "-p", str(daemon.pid), "-e", f"trace={calls}", *only,
         "-e", f"inject={call}:{how}"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert tracer.stderr is not None
    while "attached" not in (line := tracer.stderr.readline()):
        assert line, "strace could not attach"
    daemon.host.on_close(tracer.kill)
    return tracer


def injected(daemon: Daemon, call: str) -> int:
    """How often it was made to fail."""
    trace = daemon.host.folder / f"trace-{call}"
    found = rf"\b{call}\b.*\(INJECTED\)"
    return len(re.findall(found, trace.read_text())) if trace.exists() else 0


def let_go(tracer: subprocess.Popen[str]) -> None:
    tracer.terminate()
    tracer.communicate(timeout=60)


# 46


@pytest.mark.fault(46)
@pytest.mark.needs("strace")
def test_what_was_held_is_hashed_once_after_a_start_and_never_otherwise(host: Host) -> None:
    count = 40
    content = os.urandom(count * PIECE)
    manager = host.manager()
    holder = false_holder(host, manager, content, rate=1_500_000)
    traces = host.folder / "traces"
    traces.mkdir()
    calls = "trace=pread64,preadv,preadv2,read,pwrite64"
    # A file for each thread: in one for all, a call that another one comes between is in two halves.
    prefix = ["strace", "-ff", "--seccomp-bpf", "-qq", "-y", "-o", str(traces / "trace"), "-e", calls]
    peer = host.peer("rx", manager=manager, prefix=prefix)
    peer.wait_peers(1)
    share = peer.share
    assert share is not None
    oracle = Oracle(host, [peer], {"f": content})

    def seen() -> str:
        return "".join(each.read_text() for each in traces.iterdir())

    def read() -> int:
        """Bytes read from the partial file."""
        lines = re.findall(r"p?read[v264]*\(\d+<[^>]*\.part>.*= (\d+)", seen())
        return sum(map(int, lines))

    until_bytes(peer, "req f", len(content) // 2)
    assert peer.stop() == 0
    assert ".part>" in seen(), "what was written is seen"
    assert read() == 0
    # Some bits rot while nobody looks.
    held = sorted(held_in(share, count))
    assert 4 < len(held) < count
    rotten = held[::3]
    (part,) = (share / ".p2pd").glob("*.part")
    with open(part, "r+b") as file:
        for number, piece in enumerate(rotten):
            file.seek(piece * PIECE + number)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 0x10]))
    asked = holder.gets_before()
    holder.flaws.rate = None
    peer.start()
    wait_until((share / "f").exists, "the file")
    assert (share / "f").read_bytes() == content
    again = [piece for get in holder.gets[asked:]
             for piece in range(get.offset // PIECE, -(-(get.offset + get.length) // PIECE))]  # fmt: skip
    assert sorted(again) == sorted({*range(count)} - {*held} | {*rotten}), "the rotten ones, and no others"
    wait_until(lambda: not list((share / ".p2pd").iterdir()), "it is over")
    assert read() == len(held) * PIECE, "what was held is read once, and the rest not again"
    oracle.relinked()
    oracle.check()


# 49


@pytest.mark.fault(49)
@pytest.mark.needs("strace")
@pytest.mark.parametrize("error", ["EDQUOT", "EIO"])
def test_a_disk_that_takes_no_data_stops_that_transfer_only(host: Host, error: str) -> None:
    content = os.urandom(40 * PIECE)
    manager = host.manager()
    holder = false_holder(host, manager, content, rate=1_500_000)
    other = host.peer("h", manager=manager, files={"g": b"another file"})
    peer = host.peer("rx", manager=manager, files={"mine": b"shared"})
    peer.wait_peers(2)
    share = peer.share
    assert share is not None
    oracle = Oracle(host, [peer, other], {"f": content, "g": b"another file"}).warm()
    until_bytes(peer, "req f", len(content) // 3)
    (part,) = (share / ".p2pd").glob("*.part")
    tracer = inject(peer, "pwrite64", f"error={error}", part)
    result = peer.ask("req f")
    assert result.code == "storage"
    assert {"EDQUOT": "quota", "EIO": "input/output"}[error] in result.last["message"]
    assert injected(peer, "pwrite64")
    # Other files come and go, this one stays what it is.
    assert peer.ask("req g").done["size"] == 12
    assert other.ask("req mine").done["size"] == 6
    (row,) = [item for item in peer.ask("transfers").items if item["name"] == "f"]
    assert row["state"] == "waiting"
    held = row["bytes"]
    assert 0 < held < len(content)
    let_go(tracer)
    holder.flaws.rate = None
    wait_until((share / "f").exists, "it goes on by itself")
    assert (share / "f").read_bytes() == content
    oracle.check()


@pytest.mark.fault(49)
@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", ["sendfile", "pread64"])
def test_a_file_that_cannot_be_read_costs_its_holder_nothing_else(host: Host, call: str) -> None:
    content = os.urandom(40 * PIECE)
    manager = host.manager()
    holder = host.peer("h", manager=manager, files={"f": content, "g": b"another file"})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    assert holder.share is not None
    assert peer.share is not None
    oracle = Oracle(host, [holder, peer], {"f": content, "g": b"another file"}).warm()
    tracer = inject(holder, call, "error=EIO", holder.share / "f", cold=call == "pread64")
    asked = peer.begin("req f --timeout 60")
    wait_until(lambda: injected(holder, call) > 0, "the disk erred")
    # Others are served meanwhile, and on the same conversation.
    assert peer.ask("req g").done["size"] == 12
    assert holder.status()["role"] == "peer"
    assert not (peer.share / "f").exists()
    let_go(tracer)
    asked.result(120).done  # noqa: B018
    assert (peer.share / "f").read_bytes() == content
    oracle.check()


@pytest.mark.fault(49)
@pytest.mark.needs("strace")
def test_a_file_that_cannot_be_hashed_is_not_offered_until_it_can(host: Host) -> None:
    holder = host.peer("h", files={"g": b"another file"})
    share = holder.share
    assert share is not None
    oracle = Oracle(host, [holder], {"g": b"another file"})
    tracer = inject(holder, "preadv2", "error=EIO", share / "bad")
    write_file(share / "bad", b"x" * 100_000)
    write_file(share / "good", b"y" * 100_000)
    holder.wait_files(2)
    wait_until(lambda: any("input/output" in each for each in holder.status()["problems"]), "it is said why")
    ids = {item["name"]: item["id"] for item in holder.ask("files").items}
    assert [name for name, known in ids.items() if known is None] == ["bad"]
    with Raw(holder.port) as raw:
        raw.hello()
        assert isinstance(raw.req("bad", 1), m.NotHave)
        let_go(tracer)
        have = raw.req("bad", 2)
        assert isinstance(have, m.Have)
        assert raw.fetch(have, 0, 1000) == b"x" * 1000
    assert not [each for each in holder.status()["problems"] if "input/output" in each]
    oracle.check()


# 50


@pytest.mark.fault(50)
@pytest.mark.needs("strace")
def test_data_that_did_not_reach_the_disk_is_never_reported_as_done(host: Host) -> None:
    content = os.urandom(20 * PIECE)
    manager = host.manager()
    holder = false_holder(host, manager, content, rate=2_000_000)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    share = peer.share
    assert share is not None
    oracle = Oracle(host, [peer], {"f": content}).warm()
    until_bytes(peer, "req f", PIECE)
    (part,) = (share / ".p2pd").glob("*.part")
    tracer = inject(peer, "fsync", "error=EIO", part)
    result = peer.ask("req f")
    assert result.code == "storage"
    assert "disk" in result.last["message"]
    assert not (share / "f").exists()
    # Tried again: what is on the disk is read and hashed, and synced anew; that fails again.
    wait_until(lambda: injected(peer, "fsync") > 1, "it is tried again")
    assert not (share / "f").exists()
    (row,) = [item for item in peer.ask("transfers").items if item["name"] == "f"]
    assert row["state"] in ("waiting", "verifying")
    gets = len(holder.gets)
    # While the disk was out, a piece was lost that the kernel had claimed to have: it is seen.
    with open(part, "r+b") as file:
        file.seek(7 * PIECE)
        file.write(bytes(PIECE))
    let_go(tracer)
    wait_until((share / "f").exists, "it goes on by itself")
    assert (share / "f").read_bytes() == content
    assert [(get.offset, get.length) for get in holder.gets[gets:]] == [(7 * PIECE, PIECE)]
    oracle.check()
