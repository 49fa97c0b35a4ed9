"""The parts of the measurement. Each gives what it found as JSON: times in seconds, sizes in bytes."""

from __future__ import annotations

import contextlib
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import blake3

from benchmarks.contender import Contender, measure
from benchmarks.files import GIB, MIB, filesystem, in_memory, make_cold, make_file, need_room, same
from benchmarks.measure import BenchError, calm_cpu_seconds, cpu_seconds, peak_rss, probing, run
from benchmarks.rivals import MAKERS, Place, free_port
from benchmarks.swarm import PATIENCE, Swarm, new_host, wait_hashed
from tests.rig.host import BIN, Daemon, Host, wait_until

Json = dict[str, Any]
SWARMS = {"p2pd": 1, "p2pd-asked": 1, "p2pd-4": 4}
CONTENDERS = {*SWARMS}.union(*MAKERS.values())
CLIENT_RUNS = 20
PER_FOLDER = 100


@attrs.frozen
class Settings:
    """What is measured. ``big``: bytes of the largest file; ``files``: how many the large share has."""

    memory: Path
    disk: Path
    size: int = 2 * GIB
    big: int = 16 * GIB
    rounds: int = 5
    files: int = 100_000
    contenders: frozenset[str] = frozenset(CONTENDERS)
    say: Callable[[str], None] = print


@contextlib.contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    # Servers may run as another user; names are short for the sake of control sockets.
    with tempfile.TemporaryDirectory(prefix="p2pb", dir=parent) as name:
        yield Path(name)


@contextlib.contextmanager
def _host(folder: Path) -> Iterator[Host]:
    host = new_host(folder)
    try:
        yield host
    finally:
        host.close()


def _side_by_side(settings: Settings, parent: Path, *, cold: bool) -> Json:
    if in_memory(parent) == cold:
        raise BenchError(f"{parent} is {filesystem(parent)}: {'a disk' if cold else 'memory'} is wanted")
    need_room(parent, 2 * settings.size + 16 * MIB)
    with _folder(parent) as folder, contextlib.ExitStack() as stack:
        for name in ("served", "copies"):
            (folder / name).mkdir()
        place = Place(folder, folder / "served/file.bin", folder / "copies")
        make_file(place.original, settings.size)
        contenders = list(_contenders(stack, settings, place))
        rounds: dict[str, list[Json]] = {contender.key: [] for contender in contenders}
        for number in range(settings.rounds + 1):
            turn = number % len(contenders)  # each goes first in its turn
            for contender in contenders[turn:] + contenders[:turn]:
                found = measure(contender, place.original, cold=cold)
                speed = settings.size / found["seconds"] / 1e6
                kind = f"round {number}" if number else "discarded"
                settings.say(f"{kind}: {contender.title}: {found['seconds']:.3f} s, {speed:.0f} MB/s")
                if number:
                    rounds[contender.key].append(found)
        return {
            "size": settings.size,
            "filesystem": filesystem(parent),
            "contenders": {
                contender.key: {"title": contender.title, "rounds": rounds[contender.key]}
                for contender in contenders
            },
        }


def _contenders(stack: contextlib.ExitStack, settings: Settings, place: Place) -> Iterator[Contender]:
    wanted = settings.contenders
    swarms: dict[int, Swarm] = {}
    titles = {
        "p2pd": "p2pd, one holder",
        "p2pd-asked": "p2pd, one holder, asked for `status` all the time",
        "p2pd-4": "p2pd, four holders",
    }
    for key, holders in SWARMS.items():
        if key in wanted:
            if holders not in swarms:
                host = stack.enter_context(_host(place.folder))
                swarms[holders] = Swarm(host, place.original, holders)
            yield swarms[holders].contender(key, titles[key], probed=key == "p2pd-asked")
    for make, keys in MAKERS.items():
        if keys & wanted:
            yield from (each for each in make(stack, place) if each.key in wanted)


def memory(settings: Settings) -> Json:
    """Everybody side by side, files in memory."""
    return _side_by_side(settings, settings.memory, cold=False)


def disk(settings: Settings) -> Json:
    """Everybody side by side, from a disk with a cold cache."""
    return _side_by_side(settings, settings.disk, cold=True)


def rss(settings: Settings) -> Json:
    """The memory of daemons that live for one file: hash it from a cold disk, send it, receive it."""
    found: Json = {}
    for name, size in (("small", settings.size), ("big", settings.big)):
        need_room(settings.disk, 2 * size + 16 * MIB)
        with _folder(settings.disk) as folder, _host(folder) as host:
            original = folder / "file.bin"
            make_file(original, size)
            make_cold(original)
            swarm = Swarm(host, original, 1)
            make_cold(original)
            ran = run(swarm.command, host.env)
            found[name] = {
                "size": size,
                "seconds": ran.seconds,
                "sender_rss": peak_rss([swarm.holders[0].pid]),
                "receiver_rss": peak_rss([swarm.receiver.pid]),
            }
            if not same(original, swarm.made):
                raise BenchError(f"{size} bytes by p2pd: the copy is not the original")
            settings.say(f"{size} bytes: {ran.seconds:.1f} s")
    return found


def client(settings: Settings) -> Json:
    """`p2pctl` as a whole process."""
    with _folder(settings.memory) as folder, _host(folder) as host:
        port = str(host.peer("peer").port)
        found: Json = {}
        for name, words in (("version", ["version"]), ("status", ["--json", "--port", port, "status"])):
            command = [str(BIN / "p2pctl"), *words]
            run(command, host.env)
            found[name] = [run(command, host.env).seconds for _ in range(CLIENT_RUNS)]
            settings.say(f"p2pctl {' '.join(words)}: {statistics.median(found[name]) * 1000:.0f} ms")
        return found


def files(settings: Settings) -> Json:
    """A share of many files: how soon a peer that starts answers, and serves, while it scans.

    ``first``: starts without a hash cache; ``second``: starts with one that knows every file. For each
    start, from exec: ``status`` answered, ``req`` of one file done at another peer, ``known``: files in the
    list of the starting peer just then (fewer than all: it was scanning still).
    """
    found: Json = {
        "files": settings.files,
        "filesystem": filesystem(settings.disk),
        "first": [],
        "second": [],
    }
    with _folder(settings.disk) as folder, _host(folder) as host:
        need_room(settings.disk, settings.files * 12 * 1024)
        share = folder / "share"
        names = [f"{n // PER_FOLDER:04}/{n:06}.txt" for n in range(settings.files)]
        for number, name in enumerate(names):
            if number % PER_FOLDER == 0:
                (share / name).parent.mkdir(parents=True)
            (share / name).write_bytes(name.encode() * 50)
        manager = host.manager()
        receiver = host.peer("receiver", manager=manager)
        wanted = iter(names[:: max(settings.files // (2 * settings.rounds + 1), 1)])
        for kind in ("first", "second"):
            for number in range(settings.rounds):
                state = folder / f"state{number}" if kind == "first" else folder / "state0"
                daemon, timed = _start(host, manager, receiver, share, state, next(wanted))
                found[kind].append(timed)
                settings.say(f"{kind} start: {timed}")
                if kind == "first" and number == 0:
                    wait_hashed(daemon, settings.files, every=2)
                daemon.stop()
                wait_until(lambda: not receiver.ask("peers").items, "it is gone")
    return found


def _start(
    host: Host, manager: Daemon, receiver: Daemon, share: Path, state: Path, wanted: str
) -> tuple[Daemon, Json]:
    port = free_port()
    options = ["--port", str(port), "--state", str(state), "--dir", str(share)]
    began = time.perf_counter()
    daemon = host.peer("many", *options, manager=manager, wait=False)
    daemon.port = port

    def answers() -> bool:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return bool(daemon.status())
        return False

    wait_until(answers, "`status` is answered", PATIENCE, 0.002)
    status = time.perf_counter() - began
    wait_until(lambda: receiver.ask("peers").items, "the other knows of it", PATIENCE, 0.005)
    wait_until(lambda: receiver.ask(f"req {wanted}").last["event"] == "done", "the file came", PATIENCE)
    req = time.perf_counter() - began
    known = daemon.status()["files"]
    if not same(share / wanted, host.folder / "receiver" / wanted):
        raise BenchError(f"{wanted}: the copy is not the original")
    return daemon, {"status": status, "req": req, "known": known}


def hashing(settings: Settings) -> Json:
    """A running peer is given files, in memory, and hashes them; once left alone, once asked for `status`.

    Processor seconds are those from the moment that the files were given. Next to it, in every
    round, the limit: the same files read and hashed by a loop of a few lines. Last, a cold start
    with the files there, asked for `status` from its first answer on.
    """
    size = 2 * settings.size
    need_room(settings.memory, size + 16 * MIB)
    count = 4
    found: Json = {"size": size // count * count, "alone": [], "asked": [], "limit": [], "start": []}
    with _folder(settings.memory) as folder, _host(folder) as host:
        for number in range(count):
            make_file(folder / f"{number}.bin", size // count)
        peer = host.peer("peer")
        sockets = {"peer": peer.socket_path}
        share = peer.share
        assert share is not None
        for number in range(settings.rounds + 1):
            limit = sum(bare_hashing(folder / f"{each}.bin") for each in range(count))
            settings.say(f"{found['size']} bytes read and hashed, no more: {limit:.2f} s of processor")
            if number:
                found["limit"].append({"cpu": limit})
            for kind in ("alone", "asked"):
                (before,), began = calm_cpu_seconds([peer.pid]), time.perf_counter()
                with contextlib.ExitStack() as stack:
                    probes = stack.enter_context(probing(sockets)) if kind == "asked" else None
                    for each in range(count):
                        os.link(folder / f"{each}.bin", share / f"{each}.bin")
                    wait_hashed(peer, count)
                    seconds = time.perf_counter() - began
                cpu = cpu_seconds([peer.pid]) - before
                settings.say(
                    f"{found['size']} bytes hashed ({kind}): {seconds:.2f} s, {cpu:.2f} s of processor"
                )
                if number:
                    found[kind].append({"seconds": seconds, "cpu": cpu, "probes": probes})
                for each in range(count):
                    (share / f"{each}.bin").unlink()
                wait_until(lambda: not peer.ask("files").items, "the files are forgotten")
        peer.stop()
        for each in range(count):
            os.link(folder / f"{each}.bin", share / f"{each}.bin")
        began = time.perf_counter()
        peer = host.peer("peer")
        with probing({"peer": peer.socket_path}) as probes:
            wait_hashed(peer, count)
        seconds = time.perf_counter() - began
        found["start"].append({"seconds": seconds, "cpu": cpu_seconds([peer.pid]), "probes": probes})
    return found


def bare_hashing(path: Path) -> float:
    """Seconds of processor for reading a file into one buffer, a MiB at a time, and hashing that."""
    hasher, buffer = blake3.blake3(), memoryview(mmap.mmap(-1, MIB))
    began = time.process_time()
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    hasher.digest()
    return time.process_time() - began


PARTS: dict[str, Callable[[Settings], Json]] = {
    "memory": memory,
    "disk": disk,
    "rss": rss,
    "client": client,
    "files": files,
    "hashing": hashing,
}
