"""One owner and N who want its file, at once, on links of a known rate: `make bench-swarm`, as root, or

    python -m benchmarks.wires --only 8,16 --rounds 1

Each machine is a network namespace, its link shaped both ways by tbf; next to p2pd, in the same run,
libtorrent, and the floor: what framing and acknowledgements take of a link that is full both ways. Says
the makespan over the fluid bound, raw, and where the loss is: start, steady state, tail. Exit status: 0;
1 where a must is missed; 2 where something is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.bench import PAGE, RESULTS, machine
from benchmarks.files import MIB, make_file
from benchmarks.measure import BenchError, cpu_seconds
from benchmarks.report import insert, spread, table
from benchmarks.rivals import HERE, missing
from benchmarks.swarm import new_host, wait_hashed
from tests.rig.host import Daemon
from tests.rig.lan import Lan

Json = dict[str, Any]
MARK = "bench-swarm: made by `make bench-swarm`"
PATIENCE = 900.0
START, TAIL = 0.1, 0.9
"""Parts of the file: before the first is the start, behind the last the tail."""


@attrs.frozen
class Case:
    """``rate`` in Mbit/s; ``slow``: that of the last one; ``stagger``: s between starts; ``killed`` half way.

    ``must`` and ``aim``: of the makespan over the bound; of those that it is about.
    """

    key: str
    count: int
    rate: int
    size: int
    must: float
    aim: float | None = None
    slow: int | None = None
    stagger: float = 0.0
    killed: int = 0
    copies: float | None = None

    @property
    def title(self) -> str:
        more = []
        if self.slow:
            more.append(f"one of them at {self.slow}")
        if self.stagger:
            more.append(f"starting {self.stagger:g} s apart")
        if self.killed:
            more.append(f"{self.killed} killed half way")
        return f"{self.count} at {self.rate} Mbit/s, {self.size // MIB} MiB" + "".join(
            f", {each}" for each in more
        )

    @property
    def per_second(self) -> float:
        return self.rate * 1e6 / 8

    @property
    def bound(self) -> float:
        """max(F/u_owner, F/d_min, N*F/(u_owner + sum u_i)) of those that the must is about: all links
        are equal there, so it is the first term; with staggered starts of each from its own start.
        """  # fmt: skip
        return self.size / self.per_second


CASES = (
    Case("8", 8, 100, 256 * MIB, 1.10, 1.07, copies=1.15),
    Case("16", 16, 50, 128 * MIB, 1.15, 1.09, copies=1.15),
    Case("31", 31, 20, 64 * MIB, 1.25, 1.15, copies=1.15),
    Case("slow", 8, 100, 256 * MIB, 1.15, slow=10),
    Case("stagger", 8, 100, 128 * MIB, 1.2, stagger=2.0),
    Case("killed", 8, 100, 128 * MIB, 1.25, killed=2),
)


class Rig:
    """The machines of a case, the owner's first."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        rates = [f"{case.rate}mbit"] * (case.count + 1)
        if case.slow:
            rates[-1] = f"{case.slow}mbit"
        self.lan = Lan(case.count + 1, rates)
        self.folder = folder
        self.original = folder / "original" / "file.bin"
        self.original.parent.mkdir()
        make_file(self.original, case.size)
        self.digest = _digest(self.original)

    def owner_sent(self) -> int:
        """Bytes that left the owner's interface."""
        command = [*self.lan.on(0), "cat", "/sys/class/net/eth0/statistics/tx_bytes"]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def check(self, copy: Path) -> None:
        if _digest(copy) != self.digest:
            raise BenchError(f"{copy} is not the file")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@attrs.define
class Run:
    """Seconds from the first start to each one's end, from its own start; what the processes used."""

    ends: dict[int, float]
    starts: dict[int, float]
    progress: dict[int, list[tuple[float, int]]]
    owner_sent: int
    cpu: float
    received: int

    def result(self, case: Case) -> Json:
        about = [n for n in self.ends if not (case.slow and n == case.count)]
        own = [self.ends[n] - self.starts[n] for n in about]
        worst = self.ends[case.count] - self.starts[case.count] if case.stagger else max(own)
        found: Json = {
            "makespan": worst, "ratio": worst / case.bound, "copies": self.owner_sent / case.size,
            "cpu": self.cpu / (self.received / 2**30),
        }  # fmt: skip
        if self.progress and not case.stagger:
            start = statistics.mean(self._when(n, START, case.size) for n in about) - START * case.bound
            tail = worst - statistics.mean(self._when(n, TAIL, case.size) for n in about)
            tail -= (1 - TAIL) * case.bound
            found["loss"] = {
                "start": start, "steady": worst - case.bound - start - tail, "tail": tail,
            }  # fmt: skip
        return found

    def _when(self, number: int, part: float, size: int) -> float:
        before = (0.0, 0)
        for at, held in [*self.progress[number], (self.ends[number], size)]:
            if held >= part * size:
                # Between two looks it went on evenly.
                share = (part * size - before[1]) / max(held - before[1], 1)
                return before[0] + share * (at - before[0])
            before = (at, held)
        return self.ends[number]


def p2pd(rig: Rig) -> Run:
    """The daemons, with no other option than where they are; one `req` line to each control socket."""
    case, lan = rig.case, rig.lan
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2pb", dir=rig.folder)))
        host = new_host(folder)
        stack.callback(host.close)
        host.manager("--host", "0.0.0.0", "--port", "12000", prefix=lan.on(0))

        def peer(number: int) -> Daemon:
            return host.peer(
                f"peer{number}", "--host", "0.0.0.0", "--port", str(7000 + number), "--activity", "off",
                manager=f"{lan.addresses[0]}:12000", prefix=lan.on(number),
            )  # fmt: skip

        share = host.folder / "peer0"
        share.mkdir()
        os.link(rig.original, share / "file.bin")
        owner = peer(0)
        wait_hashed(owner, 1)
        peers = {number: peer(number) for number in range(1, case.count + 1)}
        for each in peers.values():
            each.wait_peers(case.count)
        run = Run({}, {}, {number: [] for number in peers}, 0, 0.0, 0)
        pids = [owner.pid, *(each.pid for each in peers.values())]
        sent, cpu = rig.owner_sent(), cpu_seconds(pids)
        doomed = list(peers)[: case.killed]
        failures: list[str] = []
        began = time.monotonic()

        def fetch(number: int, daemon: Daemon) -> None:
            never = threading.Event()
            never.wait(max(0.0, began + case.stagger * (number - 1) - time.monotonic()))
            run.starts[number] = time.monotonic() - began
            try:
                for event in daemon.events("req file.bin", PATIENCE):
                    if event["event"] == "progress":
                        run.progress[number].append((time.monotonic() - began, event["bytes"]))
                        if number in doomed and event["bytes"] * 2 >= case.size:
                            daemon.kill()
                            return
                    elif event["event"] == "done":
                        run.ends[number] = time.monotonic() - began
                    elif event["event"] == "failed":
                        failures.append(f"peer{number}: {event['message']}")
            except Exception as error:
                failures.append(f"peer{number}: {error}")

        threads = [threading.Thread(target=fetch, args=each, daemon=True) for each in peers.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        if failures or len(run.ends) + case.killed != case.count:
            raise BenchError("; ".join(failures) or "not all of them came to an end")
        run.owner_sent = rig.owner_sent() - sent
        run.cpu = cpu_seconds(pids) - cpu
        run.received = sum(case.size for _ in run.ends)
        for number in run.ends:
            rig.check(host.folder / f"peer{number}" / "file.bin")
        return run


def libtorrent(rig: Rig) -> Run:
    """One process on each machine, all told of all others."""
    case, lan = rig.case, rig.lan
    script = [sys.executable, str(HERE / "torrent.py")]
    torrent = rig.folder / "file.torrent"
    subprocess.run([*script, "make", str(rig.original), str(torrent)], check=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2pb", dir=rig.folder)))
        members: dict[int, subprocess.Popen[str]] = {}

        def stop() -> None:
            for each in members.values():
                each.kill()
                each.wait()

        stack.callback(stop)
        for number in range(case.count + 1):
            place = rig.original.parent if number == 0 else folder / str(number)
            place.mkdir(exist_ok=True)
            # Each pair meets once.
            others = [lan.addresses[other] for other in range(number)]
            members[number] = subprocess.Popen(
                [*lan.on(number), *script, "member", str(torrent), str(place), lan.addresses[number],
                 str(int(number == 0)), *others],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        for each in members.values():
            if _line(each) != "up":
                raise BenchError("libtorrent did not start")
        run = Run({}, {}, {}, 0, 0.0, 0)
        pids = [each.pid for each in members.values()]
        sent, cpu = rig.owner_sent(), cpu_seconds(pids)
        began = time.monotonic()
        _tell(members[0])

        def fetch(number: int, process: subprocess.Popen[str]) -> None:
            threading.Event().wait(max(0.0, began + case.stagger * (number - 1) - time.monotonic()))
            run.starts[number] = time.monotonic() - began
            _tell(process)
            if number <= case.killed:
                threading.Event().wait(case.bound / 2)
                process.kill()
            elif _line(process) == "done":
                run.ends[number] = time.monotonic() - began

        threads = [
            threading.Thread(target=fetch, args=(number, each), daemon=True)
            for number, each in members.items()
            if number
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        if len(run.ends) + case.killed != case.count:
            raise BenchError("libtorrent: not all of them came to an end")
        run.owner_sent = rig.owner_sent() - sent
        run.cpu = cpu_seconds(pids) - cpu
        run.received = case.size * len(run.ends)
        for number in run.ends:
            rig.check(folder / str(number) / rig.original.name)
        return run


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def floor(rig: Rig, seconds: float = 4.0) -> float:
    """Rate over goodput of bare sockets on two links that are full both ways."""
    lan = rig.lan
    script = [sys.executable, "-I", str(HERE / "both_ways.py")]
    processes = [
        subprocess.Popen(
            [*lan.on(number), *script, role, lan.addresses[0], str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, role in ((0, "listen"), (1, "dial"))
    ]
    try:
        rates = [float(_line(each)) for each in processes]
    finally:
        for each in processes:
            each.kill()
            each.wait()
    return rig.case.per_second / statistics.mean(rates)


CONTENDERS = {"p2pd": p2pd, "libtorrent": libtorrent}


def measure(case: Case, rounds: int, memory: Path) -> Json:
    """All contenders in turn, ``rounds`` times."""
    found: Json = {name: [] for name in CONTENDERS} | {"floor": []}
    with tempfile.TemporaryDirectory(prefix="p2pb", dir=memory) as folder:
        rig = Rig(case, Path(folder))
        try:
            for number in range(rounds):
                found["floor"].append(floor(rig))
                for name in sorted(CONTENDERS, reverse=bool(number % 2)):
                    result = CONTENDERS[name](rig).result(case)
                    found[name].append(result)
                    print(f"{case.key}, round {number + 1}: {name}: {_line_of(result)}", flush=True)
        finally:
            rig.lan.close()
    return found


def _line_of(result: Json) -> str:
    said = f"{result['makespan']:.2f} s, {result['ratio']:.3f} times the bound, {result['copies']:.2f} copies"
    if "loss" in result:
        said += ", lost " + ", ".join(f"{seconds:.2f} s {name}" for name, seconds in result["loss"].items())
    return said


def misses(cases: Sequence[Case], results: Json) -> Iterator[str]:
    """The musts that are not met, as sentences."""
    for case in cases:
        part = results[case.key]
        ratio = _median(part["p2pd"], "ratio")
        if ratio > case.must:
            yield f"{case.title}: {ratio:.3f} times the bound; must be at most {case.must:g}"
        copies = _median(part["p2pd"], "copies")
        if case.copies is not None and copies > case.copies:
            yield f"{case.title}: the owner sends {copies:.2f} copies; must be at most {case.copies:g}"
        ours, theirs = _median(part["p2pd"], "cpu"), _median(part["libtorrent"], "cpu")
        if ours > theirs:
            yield f"{case.title}: {ours:.2f} s of processor per GiB; libtorrent has {theirs:.2f}"


def _median(runs: Sequence[Json], key: str) -> float:
    return float(statistics.median(each[key] for each in runs))


def render(cases: Sequence[Case], results: Json) -> str:
    """The tables, as Markdown."""

    def rows() -> Iterator[Sequence[str]]:
        for case in cases:
            part = results["cases"][case.key]
            ratio = _median(part["p2pd"], "ratio")
            aim = "" if case.aim is None else f"{case.aim:g}"
            word = (
                "missed" if ratio > case.must else "aim reached" if case.aim and ratio <= case.aim else "met"
            )
            losses = [each["loss"] for each in part["p2pd"] if "loss" in each]
            lost = (
                ", ".join(f"{statistics.median(each[name] for each in losses) / case.bound * 100:.1f}"
                          for name in ("start", "steady", "tail"))
                if losses
                else ""
            )  # fmt: skip
            yield (
                case.title, spread([each["ratio"] for each in part["p2pd"]], ".3f"), f"{case.must:g}", aim,
                word,
                f"{statistics.median(part['floor']):.3f}", lost,
                f"{_median(part['libtorrent'], 'ratio'):.2f}",
                f"{_median(part['p2pd'], 'copies'):.2f}", f"{_median(part['libtorrent'], 'copies'):.2f}",
                f"{_median(part['p2pd'], 'cpu'):.1f}", f"{_median(part['libtorrent'], 'cpu'):.1f}",
            )  # fmt: skip

    head = [
        "one owner to", "makespan over the bound", "must", "aim", "", "floor",
        "lost in start, middle, tail: %",
        "libtorrent", "copies sent by the owner", "libtorrent", "CPU s per GiB received", "libtorrent",
    ]  # fmt: skip
    about = results["machine"]
    return (
        f"Measured on {results['date']}: {about['cores']} cores of {about['cpu']}, Linux {about['kernel']}, "
        f"Python {about['python']}; p2pd {about['p2pd']}, libtorrent {about['versions'].get('libtorrent')}. "
        f"Rounds: {results['rounds']}; median (least to most).\n\n{table(head, rows())}\n"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write, judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wires", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="CASE,...", help=f"of {', '.join(case.key for case in CASES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="folder in memory (/dev/shm)")
    parser.add_argument(
        "--publish", action="store_true", help="write docs/performance.md and benchmarks/results"
    )
    args = parser.parse_args(words)
    cases = [case for case in CASES if args.only is None or case.key in args.only.split(",")]
    if not cases or args.rounds < 1:
        parser.error("--only: no such case")
    absent = missing({"libtorrent"})
    if os.geteuid():
        absent.append("root, for network namespaces")
    if absent:
        print(f"bench-swarm: missing: {'; '.join(absent)}", file=sys.stderr)
        return 2
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    results: Json = {"date": date, "machine": machine(), "rounds": args.rounds, "cases": {}}
    try:
        for case in cases:
            results["cases"][case.key] = measure(case, args.rounds, args.memory)
    except BenchError as error:
        print(f"bench-swarm: {error}", file=sys.stderr)
        return 2
    if args.publish:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"swarm-{date}.json").write_text(json.dumps(results, indent=1) + "\n")
        insert(PAGE, render(cases, results), MARK)
    else:
        print(render(cases, results))
    missed = list(misses(cases, results["cases"]))
    for each in missed:
        print(f"missed: {each}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
