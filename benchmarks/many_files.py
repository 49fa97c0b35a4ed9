"""A share of very many files: what its peer does for others while it scans, hashes and lists them.

    python -m benchmarks.many_files --files 100000 --folder /tmp

Measured from outside: the seconds from exec of the peer until it answers `status`, and until a file
of it has come by a `get` of another peer's; then, asked for `status` all the time, the longest wait
for an answer while it scans and hashes, and while clients list all files; and the peak of its
memory. Once without a cache of hashes (everything is hashed), once with one. Exits 1 where a must is
missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from benchmarks.measure import peak_rss, probing
from p2pd.wire import messages as m
from tests.rig import Host, Raw
from tests.rig.host import wait_until

PATIENCE = 600.0
PER_FOLDER = 100
LISTS = 5
"""Times that all files are listed, one after the other."""
MUST_STATUS, MUST_SERVED, MUST_WAIT = 1.0, 1.0, 0.1
"""Seconds."""


@attrs.define
class Found:
    """Seconds; bytes of memory; ``known``: files in the list when the first one was served."""

    status: float = 0.0
    served: float = 0.0
    known: int = 0
    scanned: float = 0.0
    hashed: float = 0.0
    longest: float = 0.0
    listing: float = 0.0
    listed: float = 0.0
    late: float = 0.0
    rss: int = 0


def fill(share: Path, count: int, depth: int) -> str:
    """Small files, a hundred to a folder, and one far down; the name of one in the middle."""
    for number in range(count):
        folder = share / f"{number // PER_FOLDER % 30:02}/{number // PER_FOLDER:05}"
        if number % PER_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{number % PER_FOLDER:02}").write_bytes(b"%d" % number * 20)
    fd = os.open(share, os.O_RDONLY)
    for _ in range(depth):  # step by step: mkdir(parents=True) would recurse
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("deep", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
    os.close(fd)
    middle = count // 2
    return f"{middle // PER_FOLDER % 30:02}/{middle // PER_FOLDER:05}/{middle % PER_FOLDER:02}"


def soon(check: Callable[[], object], what: str) -> None:
    """Until ``check`` is true and raises nothing; looked at often."""

    def calm() -> object:
        with contextlib.suppress(OSError):
            return check()
        return None

    wait_until(calm, what, PATIENCE)


def start(host: Host, port: int, name: str, total: int) -> Found:
    """Start the peer on ``port`` and watch it until everything is hashed and listed."""
    found = Found()
    began = time.perf_counter()
    peer = host.peer("share", "--port", str(port), "--activity", "off", wait=False)
    peer.port = port
    soon(lambda: peer.status(), "`status` is answered")
    found.status = time.perf_counter() - began
    with probing({"peer": peer.socket_path}) as probes:
        with Raw(port) as raw:
            raw.hello()
            raw.send(m.Req(1, name, 0))
            have = raw.expect(m.Have)
            raw.fetch(have, 0, have.size)
        found.served = time.perf_counter() - began
        found.known = peer.status()["files"]
        soon(lambda: peer.status()["files"] >= total, "all are found")
        found.scanned = time.perf_counter() - began

        wait_until(
            lambda: all(row["id"] for row in peer.ask("files", PATIENCE).items), "all hashed", PATIENCE, 1.0
        )  # fmt: skip
        found.hashed = time.perf_counter() - began
    found.longest, found.late = probes["peer"]["max"], probes["late"]
    with probing({"peer": peer.socket_path}) as probes:
        began = time.perf_counter()
        for _ in range(LISTS):
            assert len(peer.ask("files", PATIENCE).items) == total
        found.listed = (time.perf_counter() - began) / LISTS
    found.listing = probes["peer"]["max"]
    found.rss = peak_rss([peer.pid])
    assert peer.stop() == 0
    return found


def report(title: str, found: Found, total: int) -> bool:
    """Print a start; False where it missed a must."""
    rows = (
        ("start to `status`", found.status, MUST_STATUS),
        (f"start to a file served ({found.known} of {total} known)", found.served, MUST_SERVED),
        ("longest wait for `status`, scanning and hashing", found.longest, MUST_WAIT),
        ("longest wait for `status`, listing", found.listing, MUST_WAIT),
        ("start to all found", found.scanned, None),
        ("start to all hashed", found.hashed, None),
        ("`files`, all of it", found.listed, None),
        ("the asking process itself late by at most", found.late, None),
    )
    print(title)
    for what, seconds, must in rows:
        judged = "" if must is None else f"  (must: {must} s{'' if seconds <= must else ', MISSED'})"
        print(f"  {what}: {seconds:.3f} s{judged}")
    print(f"  peak RSS: {found.rss / 2**20:.0f} MiB", flush=True)
    return all(must is None or seconds <= must for _, seconds, must in rows)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    host = Host(args.folder)
    try:
        name = fill(host.folder / "share", args.files, args.depth)
        port = 20000 + os.getpid() % 10000
        good = True
        for title in ("without a cache of hashes", "with one"):
            good &= report(title, start(host, port, name, args.files + 1), args.files + 1)
        return 0 if good else 1
    finally:
        # Deeper than shutil would go.
        subprocess.run(["rm", "-rf", str(host.folder / "share")], check=True)
        host.close()


if __name__ == "__main__":
    sys.exit(main())
