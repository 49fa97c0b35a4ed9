"""Storage: full disks, short writes, kills at any moment, damaged state, and names that are taken."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from p2pd.pieces import Bitfield, format_runs, parse_runs
from p2pd.share.job import dump_job, parse_job
from tests.rig import Daemon, FalsePeer, Flaws, Host, Oracle
from tests.rig.behind import behind_proxy
from tests.rig.host import Result, wait_until, write_file

PIECE = 65536


@pytest.fixture
def small_disk(host: Host) -> Iterator[Callable[[str, int], Path]]:
    """Gives a function that makes a folder of the host a file system of so many bytes; or resizes it."""
    mounted: list[Path] = []

    def make(name: str, size: int) -> Path:
        folder = host.folder / name
        folder.mkdir(exist_ok=True)
        option = f"size={size}" + (",remount" if folder in mounted else "")
        subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(folder)], check=True)
        if folder not in mounted:
            mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        # Lazily: the daemons in it are killed later.
        subprocess.run(["umount", "-l", str(folder)], check=False)


def false_holder(
    host: Host, manager: Daemon, content: bytes, rate: int | None = None, **flaws: Any
) -> FalsePeer:
    holder = FalsePeer(manager.port, "f", content, Flaws(rate=rate, **flaws), peer="holder")
    host.on_close(holder.close)
    return holder


def ask_aside(daemon: Daemon, line: str) -> tuple[threading.Thread, list[Result]]:
    """Ask in a thread; the result is in the list once the thread has ended."""
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(daemon.ask(line)), daemon=True)
    thread.start()
    return thread, results


def until_bytes(daemon: Daemon, line: str, count: int) -> dict[str, Any]:
    """Ask, and leave once so many bytes came; the event that said so, or the last one."""
    event: dict[str, Any] = {}
    for event in daemon.events(line):
        if event["event"] == "progress" and event["bytes"] >= count:
            break
    return event


def fill(folder: Path, leave: int, name: str = ".filler") -> Path:
    """Fill the file system of ``folder`` but for ``leave`` bytes."""
    filler = folder / name
    room = os.statvfs(folder)
    with open(filler, "wb") as file, contextlib.suppress(OSError):
        file.write(b"x" * max(0, room.f_bavail * room.f_frsize - leave))
    return filler


def part_files(share: Path) -> list[str]:
    folder = share / ".p2pd"
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def state_of(share: Path) -> dict[str, Any]:
    """The only state file, as JSON."""
    (path,) = (share / ".p2pd").glob("*.state")
    return dict(json.loads(path.read_text()))


def held_in(share: Path, count: int) -> set[int]:
    """The pieces that the state on disk names."""
    return set(parse_runs(state_of(share)["pieces"], count))


# 48


WRITES = "pwrite64,pwritev,pwritev2"


def attached(peer: Daemon, calls: str, inject: str) -> subprocess.Popen[str]:
    """strace at a daemon that runs, with that injected from now on; what it saw is on its stderr."""
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(peer.pid), "-e", f"trace={calls}", "-e", f"inject={calls}:{inject}"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    return tracer


@pytest.mark.fault(48)
@pytest.mark.needs("root")
def test_a_file_that_does_not_fit_is_refused_before_and_comes_when_there_is_room(
    host: Host, small_disk: Callable[[str, int], Path]
) -> None:
    content = os.urandom(6_000_000)
    manager = host.manager()
    holder = host.peer("h", manager=manager, files={"f": content})
    share = small_disk("rx", 4 * 2**20)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    oracle = Oracle(host, [peer, holder], {"f": content})
    result = peer.ctl("--json", "req", "f")
    assert result.returncode == 8
    failed = json.loads(result.stdout.splitlines()[-1])
    assert failed["code"] == "storage"
    assert re.search(r"6000000 bytes.* free", failed["message"])
    assert not [each for each in part_files(share) if each.endswith(".part")], "nothing was written"
    assert "asks for piece list" in holder.console.text()
    assert not re.search("asks for (piece [0-9]|range)", holder.console.text())
    small_disk("rx", 16 * 2**20)
    wait_until((share / "f").exists, "it goes on by itself")
    assert (share / "f").read_bytes() == content
    oracle.check()


@pytest.mark.fault(48)
@pytest.mark.needs("root")
def test_a_disk_that_fills_up_keeps_what_came_and_goes_on_when_there_is_room(
    host: Host, small_disk: Callable[[str, int], Path]
) -> None:
    content = os.urandom(4 * 2**20)
    manager = host.manager()
    share = small_disk("rx", 16 * 2**20)
    peer = host.peer("rx", manager=manager)
    holder = false_holder(host, manager, content, rate=2_000_000)
    peer.wait_peers(1)
    oracle = Oracle(host, [peer], {"f": content})
    filler = None
    last: dict[str, Any] = {}
    for event in peer.events("req f"):
        last = event
        if event["event"] == "progress" and event["bytes"] > 500_000 and filler is None:
            filler = fill(share, 500_000)
    assert (last["event"], last["code"]) == ("failed", "storage")
    assert "full" in last["message"]
    # Others are answered: that nobody has a file needs no room; what could not be kept is not taken on.
    assert peer.ask("req there/is/no.such", 5).code == "not-found"
    # A state that is saved meanwhile gives back the pages of the one before: until none is left.
    rest: list[Path] = []
    answer: dict[str, Any] = {}
    while answer.get("event") != "failed" and len(rest) < 20:
        rest.append(fill(share, 0, f".rest{len(rest)}"))
        answer = peer.ask("req there/is/no.such --no-wait", 5).last
    assert answer.get("code") == "storage", answer
    assert peer.ask("status", 5).done["role"] == "peer"
    (row,) = [
        each for each in peer.ask("transfers").items if each["direction"] == "in" and each["name"] == "f"
    ]
    assert row["state"] == "waiting"
    assert 0 < row["bytes"] < len(content)
    assert filler is not None
    for each in (filler, *rest):
        each.unlink()
    holder.flaws.rate = None
    wait_until((share / "f").exists, "it goes on by itself")
    assert (share / "f").read_bytes() == content
    # What was held was not fetched again.
    got = sum(each["bytes"] for each in peer.ask("transfers").items if each["name"] == "f")
    assert got == len(content)
    oracle.check()


@pytest.mark.fault(48)
@pytest.mark.needs("strace")
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO"])
def test_a_write_that_fails_is_done_again(host: Host, error: str) -> None:
    content = os.urandom(4 * 2**20)
    manager = host.manager()
    holder = host.peer("h", manager=manager, files={"f": content})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    oracle = Oracle(host, [peer, holder], {"f": content})
    tracer = attached(peer, WRITES, f"error={error}:when=2")
    result = peer.ctl("req", "f")
    assert result.returncode == 8, result.stderr
    assert peer.share is not None
    wait_until((peer.share / "f").exists, "it goes on by itself")
    assert (peer.share / "f").read_bytes() == content
    tracer.terminate()
    assert "INJECTED" in tracer.communicate(timeout=30)[1]
    oracle.check()


# 51


@pytest.mark.fault(51)
@pytest.mark.needs("root", "strace")
def test_the_rest_of_a_short_write_is_written(host: Host, small_disk: Callable[[str, int], Path]) -> None:
    content = os.urandom(4 * 2**20)
    manager = host.manager()
    share = small_disk("rx", 16 * 2**20)
    trace = host.folder / "trace"
    trace.mkdir()
    peer = host.peer(
        "rx", manager=manager,
        # What waited together is written by one pwritev; a file for each thread keeps each call whole.
        prefix=["strace", "-ff", "--seccomp-bpf", "-qq", "-o", str(trace / "t"), "-e",
                "trace=pwrite64,pwritev,pwritev2"],
    )  # fmt: skip
    holder = false_holder(host, manager, content, rate=2_000_000)
    peer.wait_peers(1)
    oracle = Oracle(host, [peer], {"f": content})
    filler = None
    last: dict[str, Any] = {}
    for event in peer.events("req f"):
        last = event
        if event["event"] == "progress" and event["bytes"] > 500_000 and filler is None:
            # Room for some pieces and a part of one: that one is written short.
            filler = fill(share, 8 * PIECE + 7 * 4096)
    assert last["event"] == "failed", last
    assert last["code"] == "storage"
    lines = "".join(each.read_text() for each in trace.iterdir())
    lengths = re.findall(r"pwrite64\(.*, (\d+), \d+\) += (\d+)", lines)
    for pieces, done in re.findall(r"pwritev2?\(.*(\[\{.*\}\]).*\) += (\d+)", lines):
        lengths.append((str(sum(map(int, re.findall(r"iov_len=(\d+)", pieces)))), done))
    assert [pair for pair in lengths if pair[0] != pair[1]], "no write was short"
    assert filler is not None
    filler.unlink()
    holder.flaws.rate = None
    wait_until((share / "f").exists, "it goes on by itself")
    assert (share / "f").read_bytes() == content
    oracle.check()


# 52


@pytest.mark.fault(52)
def test_a_transfer_survives_many_kills_and_fetches_nothing_twice_that_was_noted(host: Host) -> None:
    count = 64
    content = os.urandom(count * PIECE)
    manager = host.manager()
    holder = false_holder(host, manager, content, rate=1_500_000)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    share = peer.share
    assert share is not None
    oracle = Oracle(host, [peer], {"f": content})
    rounds, chance = 12, random.Random(52)
    noted: set[int] = set()
    transfer = ""
    for each in range(rounds):
        goal = len(content) * (each + 1) // (rounds + 4) + chance.randrange(-PIECE, 2 * PIECE)
        event = until_bytes(peer, "req f", goal)
        assert event["event"] == "progress", event
        peer.kill()
        state = state_of(share)
        assert transfer in ("", state["transfer"])
        transfer = state["transfer"]
        before, noted = noted, held_in(share, count)
        assert noted >= before, "what was noted is not forgotten"
        assert not (share / "f").exists()
        asked = holder.gets_before()
        holder.flaws.rate = 1_500_000 if each < rounds - 1 else None
        peer.start()
        peer.wait_peers(1)
        if each == rounds - 1:
            wait_until((share / "f").exists, "the file")
        else:
            assert until_bytes(peer, "req f", len(noted) * PIECE)["event"] == "progress"
        again = {
            piece
            for get in holder.gets[asked:]
            for piece in range(get.offset // PIECE, -(-(get.offset + get.length) // PIECE))
        }
        assert not again & noted, "pieces that were noted as held are fetched again"
    assert (share / "f").read_bytes() == content
    assert len(noted) > count // 4, "kills came late enough that much was noted"
    oracle.relinked()
    oracle.check()


KILLS = [
    (call, number)
    for call, numbers in {
        "openat": (2, 4, 6, 8, 10),
        "fsync": (1, 2, 3, 4, 5, 6, 7, 8),
        "renameat": (1, 2, 3, 4),
        "renameat2": (1,),
        "unlinkat": (1, 2, 3),
        "mkdirat": (1, 2),
        "ftruncate": (1,),
        "pwrite64": (1, 2),
        "pwritev2": (1,),
    }.items()
    for number in numbers
]
"""Calls in a transfer, and which of them (of one thread) is not survived."""


def _ended(peer: Daemon, share: Path) -> bool:
    return peer.process.poll() is not None or ((share / "sub/f").exists() and not part_files(share))


def kill_at(peer: Daemon, call: str, number: int) -> subprocess.Popen[str]:
    """From now on: SIGKILL when a thread of it makes that call for the ``number``-th time."""
    return attached(peer, call, f"signal=KILL:when={number}")


@pytest.mark.fault(52)
@pytest.mark.needs("strace")
@pytest.mark.parametrize("part", range(4))
def test_a_kill_at_each_storage_call_leaves_a_job_or_the_file(host: Host, part: int) -> None:
    content = os.urandom(4 * PIECE)
    manager = host.manager()
    host.peer("h", manager=manager, files={"sub/f": content})
    killed: list[tuple[str, int]] = []
    for call, number in KILLS[part::4]:
        peer = host.peer(f"rx-{call}-{number}", manager=manager)
        share = peer.share
        assert share is not None
        peer.wait_peers(1)
        oracle = Oracle(host, [peer], {"sub/f": content})
        tracer = kill_at(peer, call, number)
        accepted = False
        with contextlib.suppress(AssertionError, OSError):  # what a client hears of a killed daemon
            for event in peer.events("req sub/f"):
                accepted = accepted or event["event"] == "started"
        assert not (share / "sub/f").exists() or (share / "sub/f").read_bytes() == content
        # Either it was killed, or the call came less often than that, and the transfer is over.
        wait_until(partial(_ended, peer, share), "killed, or all done")
        if peer.process.poll() is not None:
            killed.append((call, number))
        else:
            peer.kill()
        tracer.communicate(timeout=30)
        peer.start()
        peer.wait_peers(1)
        if not accepted and not (share / "sub/f").exists():
            peer.ask("req sub/f").done  # noqa: B018  # it was never said to be begun
        wait_until((share / "sub/f").exists, f"{call} {number}: the file after a new start")
        assert (share / "sub/f").read_bytes() == content
        wait_until(partial(_ended, peer, share), f"{call} {number}: {part_files(share)} left behind")
        oracle.relinked()
        oracle.check()
        shutil.rmtree(oracle.canary)
        assert peer.stop() == 0
    assert len(killed) >= len(KILLS[part::4]) // 2, f"only {killed} were reached"


# 54 and 55


@attrs.frozen
class Half:
    """A share with a transfer half done, as a daemon left it, to be copied."""

    host: Host
    manager: Daemon
    holder: FalsePeer
    content: bytes
    template: Path
    count: int

    def copy(self, name: str) -> Path:
        shutil.copytree(self.template, self.host.folder / name)
        return self.host.folder / name

    def state(self, share: Path) -> Path:
        (path,) = [
            each for each in (share / ".p2pd").glob("*.state") if json.loads(each.read_text())["name"] == "f"
        ]
        return path

    def part(self, share: Path) -> Path:
        return self.state(share).with_suffix(".part")

    def start(self, name: str) -> Daemon:
        peer = self.host.peer(name, manager=self.manager, wait=False)
        peer.wait_up()
        return peer


@pytest.fixture
def half(host: Host) -> Half:
    """Two jobs: ``f`` half done, and ``other`` that nobody has yet; and a file that is shared."""
    content = os.urandom(16 * PIECE + 5)
    manager = host.manager()
    holder = false_holder(host, manager, content, rate=1_500_000)
    peer = host.peer("template", manager=manager, files={"plain": b"shared"})
    peer.wait_peers(1)
    until_bytes(peer, "req f", 8 * PIECE)
    assert peer.stop() == 0
    holder.flaws.rate = None
    assert peer.share is not None
    assert 0 < len(held_in(peer.share, 17)) < 17
    return Half(host, manager, holder, content, peer.share, 17)


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


@pytest.mark.fault(54)
def test_a_damaged_state_is_dropped_and_the_rest_is_served(half: Half) -> None:
    good = half.state(half.template).read_bytes()
    stored = parse_job(good)
    state = json.loads(good)
    assert dump_job(stored.job, stored.pieces, stored.finishing) == good
    damages = {
        "empty": b"",
        "garbage": os.urandom(500),
        "half": good[: len(good) // 2],
        "deep": b"[" * 200_000,
        "version": json.dumps({**state, "format": 2}).encode(),
        "no-object": b"[1, 2]",
        "name": good.replace(b'"name": "f"', b'"name": "../../outside/canary/secret.txt"'),
        "huge": good + b" " * (17 * 2**20),
        "created": flipped(good, good.index(b'"created": ') + 13),
        "size": flipped(good, good.index(b'"size": ') + 9),
        "pieces": good.replace(state["pieces"].encode(), b"0-16", 1),
        "file-id": flipped(good, good.index(state["file_id"].encode()) + 1),
        "transfer": flipped(good, good.index(state["transfer"].encode(), good.index(b'"transfer"')) + 3),
    }
    chance = random.Random(54)
    for number in range(4):
        damages[f"bit-{number}"] = flipped(good, chance.randrange(len(good) - 1), chance.randrange(8))
    assert good not in damages.values()
    peers = {}
    for name, data in damages.items():
        share = half.copy(name)
        half.state(share).write_bytes(data)
        peers[name] = half.start(name)
    oracle = Oracle(half.host, list(peers.values()), {"f": half.content, "plain": b"shared"}).warm()
    for name, peer in peers.items():
        assert peer.share is not None
        peer.console.wait("The state of transfer [0-9a-f]{12} was dropped")
        assert not [each for each in peer.ask("transfers").items if each["name"] == "f"], name
        assert part_files(peer.share) == [], name
        assert not (peer.share / "f").exists(), name
        peer.wait_files(1)
        assert [item["name"] for item in peer.ask("files").items] == ["plain"]
    # It can be asked for again, and the rest of the damaged one is in nobody's way.
    peer = peers["garbage"]
    assert peer.share is not None
    peer.ask("req f").done  # noqa: B018
    assert (peer.share / "f").read_bytes() == half.content
    oracle.check()


@pytest.mark.fault(54)
def test_a_damaged_manifest_is_fetched_again(half: Half) -> None:
    share = half.copy("rx")
    path = half.state(share).with_suffix(".manifest")
    path.write_bytes(flipped(path.read_bytes(), 40))
    peer = half.start("rx")
    oracle = Oracle(half.host, [peer], {"f": half.content}).warm()
    peer.console.wait("The piece hashes of f are damaged")
    wait_until((share / "f").exists, "the file")
    assert (share / "f").read_bytes() == half.content
    oracle.check()


@pytest.mark.fault(54)
def test_state_files_that_are_no_files_are_dropped(half: Half) -> None:
    share = half.copy("rx")
    state, part = half.state(share), half.part(share)
    manifest = state.with_suffix(".manifest")
    oracle = Oracle(half.host, [half.manager], {"f": half.content})
    secret = oracle.canary / "canary/secret.txt"
    good = state.read_bytes()
    for path in (state, part, manifest):
        path.unlink()
    os.mkfifo(state)
    part.symlink_to(secret)
    manifest.symlink_to(secret)
    other = share / ".p2pd" / "0123456789ab.state"
    other.mkdir()
    peer = half.start("rx")
    peer.console.wait("was dropped")
    assert peer.ask("transfers").items == []
    assert peer.stop() == 0
    # With a good state, but the data a link to elsewhere: it is not written through.
    with contextlib.suppress(OSError):
        state.unlink()
    state.write_bytes(good)
    with contextlib.suppress(FileExistsError):
        part.symlink_to(secret)
    peer.start()
    peer.wait_peers(1)
    wait_until((share / "f").exists, "the file")
    assert (share / "f").read_bytes() == half.content
    assert not (share / "f").is_symlink()
    oracle.daemons.append(peer)
    oracle.relinked()
    oracle.check()


def _piece(data: bytes, number: int) -> bytes:
    return data[number * PIECE : (number + 1) * PIECE]


@pytest.mark.fault(55)
@pytest.mark.parametrize("what", ["claims-all", "short", "missing", "old-content", "zeros", "one-byte"])
def test_only_what_is_right_counts_after_a_start(half: Half, what: str) -> None:
    share = half.copy("rx")
    state, part = half.state(share), half.part(share)
    stored = parse_job(state.read_bytes())
    held = set(parse_runs(stored.pieces, half.count))
    first = min(held)
    data = part.read_bytes()
    if what == "claims-all":
        state.write_bytes(dump_job(stored.job, format_runs(Bitfield.full(half.count).runs())))
        # One may have been written after the pieces were noted last.
        held = {n for n in range(half.count) if _piece(data, n) == _piece(half.content, n)}
    elif what == "short":
        os.truncate(part, (first + 1) * PIECE - 1)
        held = set()
    elif what == "missing":
        part.unlink()
        held = set()
    elif what == "old-content":
        part.write_bytes(os.urandom(len(data)))
        held = set()
    elif what == "zeros":
        part.write_bytes(bytes(len(data)))
        held = set()
    elif what == "one-byte":
        part.write_bytes(flipped(data, first * PIECE + 100))
        held.discard(first)
    asked = half.holder.gets_before()
    peer = half.start("rx")
    oracle = Oracle(half.host, [peer], {"f": half.content, "plain": b"shared"}).warm()
    wait_until((share / "f").exists, "the file")
    assert (share / "f").read_bytes() == half.content
    fetched = {
        piece
        for get in half.holder.gets[asked:]
        for piece in range(get.offset // PIECE, -(-(get.offset + get.length) // PIECE))
    }
    assert fetched == set(range(half.count)) - held
    wait_until(lambda: not part_files(share), "nothing is left behind")
    oracle.check()


# 56 and 57


@pytest.mark.fault(56)
def test_a_file_of_that_name_is_not_overwritten(host: Host) -> None:
    mine, theirs = os.urandom(100_000), os.urandom(2 * 2**20)
    manager = host.manager()
    peer = host.peer("rx", manager=manager, files={"f": mine})
    holder = false_holder(host, manager, theirs)
    peer.wait_peers(1)
    share = peer.share
    assert share is not None
    oracle = Oracle(host, [peer])
    assert peer.ctl("req", "f").returncode == 7
    assert (share / "f").read_bytes() == mine
    assert not holder.gets
    # One that appears while the other is fetched.
    holder.flaws.rate = 2_000_000
    last, appeared = {}, False
    for event in peer.events("req f --output g"):
        last = event
        if event["event"] == "progress" and event["bytes"] and not appeared:
            appeared = True
            write_file(share / "g", mine)
    assert appeared
    assert (last["event"], last["code"]) == ("failed", "conflict"), last
    assert (share / "g").read_bytes() == mine
    wait_until(lambda: not part_files(share), "the partial file is dropped")
    # Only --replace does it.
    holder.flaws.rate = None
    assert peer.ask("req f --replace").done["size"] == len(theirs)
    assert (share / "f").read_bytes() == theirs
    assert (share / "g").read_bytes() == mine
    oracle.check()


@pytest.mark.fault(57)
def test_links_and_folders_in_the_way_are_neither_followed_nor_overwritten(host: Host) -> None:
    content = os.urandom(300_000)
    manager = host.manager()
    names = ["f", "sub/f"]
    host.peer("h", manager=manager, files=dict.fromkeys(names, content))
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    share = peer.share
    assert share is not None
    oracle = Oracle(host, [peer])
    secret = oracle.canary / "canary/secret.txt"
    (share / "link").symlink_to(secret)
    (share / "dangling").symlink_to(oracle.canary / "new")
    (share / "folder/inner").mkdir(parents=True)
    (share / "sub").symlink_to(oracle.canary)
    (share / "up").symlink_to(oracle.canary / "canary")
    os.mkfifo(share / "fifo")
    for name in ("link", "dangling", "folder", "fifo", "sub/f", "up/secret.txt", "link/f", "fifo/f"):
        assert peer.ask(f"req f --output {name}").code == "conflict", name
    assert peer.ask("req sub/f").code == "conflict"
    assert peer.ctl("req", "sub/f").returncode == 7
    for name in ("sub/f", "up/secret.txt", "folder"):
        assert peer.ask(f"req f --output {name} --replace").code == "conflict", name
    assert (share / "folder/inner").is_dir()
    assert (share / "link").is_symlink()
    # A link is replaced itself where that was asked for, and what it leads to is left alone.
    peer.ask("req f --output link --replace").done  # noqa: B018
    assert not (share / "link").is_symlink()
    assert (share / "link").read_bytes() == content
    wait_until(lambda: not part_files(share), "nothing is left behind")
    oracle.check()


@pytest.mark.fault(57)
def test_a_link_that_is_put_in_the_way_meanwhile_is_not_followed(host: Host) -> None:
    """What counts is not what stood there before, but when the file gets its name."""
    content = os.urandom(1_000_000)
    manager = host.manager()
    _, proxy = behind_proxy(host, manager, "h", files={"sub/f": content, "f": content}, rate=400_000)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    share = peer.share
    assert share is not None
    oracle = Oracle(host, [peer])
    for name, way in (("sub/f", "sub"), ("f", "f")):
        proxy.toxics.rate, last = 400_000, {}
        for event in peer.events(f"req {name}"):
            last = event
            if event["event"] == "progress" and event["bytes"] and not (share / way).is_symlink():
                (share / way).symlink_to(oracle.canary if way == "sub" else oracle.canary / "new")
                proxy.toxics.rate = None
        assert (share / way).is_symlink(), name
        assert (last["event"], last["code"]) == ("failed", "conflict"), name
    assert not (oracle.canary / "f").exists()
    assert not (oracle.canary / "new").exists()
    oracle.check()


# 60


@pytest.mark.fault(60)
def test_two_requests_for_one_name_are_one_transfer_or_one_is_refused(host: Host) -> None:
    content = os.urandom(3 * 2**20)
    manager = host.manager()
    holder = false_holder(host, manager, content, rate=2_000_000)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    share = peer.share
    assert share is not None
    oracle = Oracle(host, [peer], {"f": content})
    threads, results = zip(*[ask_aside(peer, "req f") for _ in range(3)], strict=True)
    assert holder.served.wait(20)
    late, late_results = ask_aside(peer, "req f --timeout 20")
    for line in (
        "req f --sha256 " + "0" * 64,
        "req f --replace",
        "req other --output f",
        "req f --from nobody",
    ):
        assert peer.ask(line).code == "refused", line
    assert peer.ctl("req", "f", "--replace").returncode == 9
    for thread in (*threads, late):
        thread.join(30)
    found = [each[0] for each in (*results, late_results)]
    assert len({each.events[0]["transfer"] for each in found}) == 1
    assert {each.done["id"] for each in found} == {holder.manifest.file_id}
    assert (share / "f").read_bytes() == content
    assert sum(get.length for get in holder.gets) == len(content), "each byte was asked for once"
    oracle.check()
