"""Measure p2pd next to what people use now, and judge it: `make bench`, or

    python -m benchmarks.bench --only memory --size 256Mi --rounds 2

Exit status: 0; 1 where a must is missed, or could not be judged though everything was to be
measured; 2 where something is missing or in the way.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import BenchError
from benchmarks.musts import judge
from benchmarks.parts import CONTENDERS, PARTS, Settings
from benchmarks.report import SIDE_BY_SIDE, insert, render, verdict_line
from benchmarks.rivals import missing, versions
from p2pd import __version__
from p2pd.errors import P2PError
from p2pd.sizes import parse_size

TOP = Path(__file__).resolve().parent.parent
PAGE = TOP / "docs/performance.md"
PICTURE = TOP / "docs/images/bench.svg"
RESULTS = TOP / "benchmarks/results"


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = "an unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            cpu = value.strip()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "p2pd": f"{__version__}{_commit()}",
        "versions": versions(),
    }


def _commit() -> str:
    """The commit in brackets, where it can be known."""
    git = shutil.which("git")
    if git is None or not (TOP / ".git").exists():
        return ""

    def asked(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([git, "-C", str(TOP), *words], capture_output=True, text=True, check=False)

    done = asked("describe", "--always", "--match=v*")
    if done.returncode:
        return ""
    # What an earlier run has published changes nothing that is measured.
    changed = asked("diff", "--quiet", "HEAD", "--", ".", ":!docs").returncode
    return f" ({done.stdout.strip()}{'-dirty' if changed else ''})"


def _listed(text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except P2PError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    default = Settings(Path("/dev/shm"), Path("/var/tmp"))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description="Measures p2pd next to what people use now."
    )
    parser.add_argument(
        "--only", type=lambda text: _listed(text, list(PARTS)), metavar="PART,...",
        help=f"of {', '.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--contenders", type=lambda text: _listed(text, sorted(CONTENDERS)), metavar="NAME,...",
        help=f"of {', '.join(sorted(CONTENDERS))}",
    )  # fmt: skip
    parser.add_argument("--size", type=_size, default=default.size, help="of the file (2Gi)")
    parser.add_argument("--big", type=_size, default=default.big, help="of the largest file, in `rss` (16Gi)")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="besides the one discarded (5)")
    parser.add_argument("--files", type=int, default=default.files, help="of the large share (100000)")
    parser.add_argument("--memory", type=Path, default=default.memory, help="folder in memory (/dev/shm)")
    parser.add_argument("--disk", type=Path, default=default.disk, help="folder on a disk (/var/tmp)")
    parser.add_argument(
        "--results", type=Path, help="file for the raw results; with --only, the other parts in it stay"
    )
    parser.add_argument(
        "--publish", action="store_true",
        help="write docs/performance.md, its picture, and the raw results to benchmarks/results",
    )  # fmt: skip
    args = parser.parse_args(words)
    if args.rounds < 1 or args.size < 2**20 or args.big < 2**20 or args.files < 100:
        parser.error("at least one round, 1Mi and 100 files")
    return args


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write, judge."""
    args = _arguments(words)
    # Daemons and folders are cleared away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _measure(args)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _measure(args: argparse.Namespace) -> int:
    contenders = frozenset(args.contenders or CONTENDERS)
    chosen = [part for part in PARTS if part in (args.only or PARTS)]
    absent = missing(contenders) if {"memory", "disk"} & set(chosen) else []
    if args.publish and importlib.util.find_spec("matplotlib") is None:
        absent.append("matplotlib (PyPI package matplotlib, in the extra `bench`)")
    if absent:
        raise BenchError("missing: " + "; ".join(absent))
    settings = Settings(
        args.memory, args.disk, size=args.size, big=args.big, rounds=args.rounds, files=args.files,
        contenders=contenders, say=lambda text: print(text, flush=True),
    )  # fmt: skip
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    results: dict[str, Any] = {"date": date, "machine": machine(), "rounds": args.rounds, "parts": {}}
    where = args.results or (RESULTS / f"{date}.json" if args.publish else None)
    if where and args.only and where.exists():
        results["parts"] = _earlier(where, results)
    for part in chosen:
        print(f"== {part}", flush=True)
        began = time.monotonic()
        results["parts"][part] = PARTS[part](settings)
        print(f"{part}: took {time.monotonic() - began:.0f} s", flush=True)
        if where:  # after each part, so that nothing is lost where a later one fails
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_text(json.dumps(results, indent=1) + "\n")
    if args.publish:
        publish(results)
    else:
        print(render(results, None))
    return _judge(results, complete=not (args.only or args.contenders))


def _earlier(where: Path, results: dict[str, Any]) -> dict[str, Any]:
    earlier = json.loads(where.read_text())
    for key in ("machine", "rounds"):
        if earlier[key] != results[key]:
            raise BenchError(f"{where} is of another machine, other versions or another number of rounds")
    parts: dict[str, Any] = earlier["parts"]
    return parts


def publish(results: dict[str, Any]) -> None:
    """Write the page's tables and the picture."""
    from benchmarks.picture import draw

    if results["parts"].keys() & SIDE_BY_SIDE.keys():
        PICTURE.parent.mkdir(exist_ok=True)
        draw(results, PICTURE)
    insert(PAGE, render(results, os.path.relpath(PICTURE, PAGE.parent)))


def _judge(results: dict[str, Any], *, complete: bool) -> int:
    verdicts = judge(results["parts"])
    missed = [verdict for verdict in verdicts if verdict.missed]
    if complete:
        missed += [verdict for verdict in verdicts if verdict.figure is None]
    for verdict in missed:
        print(f"missed: {verdict_line(verdict)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
