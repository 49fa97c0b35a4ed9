"""A crowd at the door of a peer: what a transfer that is under way loses by it.

    python -m benchmarks.crowd --size 512Mi --rounds 5

As root, with `ip` and `tc`: three machines in network namespaces, their links shaped to ``--rate``.
The first shares a file, the second fetches it, and in every other round the third opens ten times as
many connections as the first takes (``--max``), each again a second after it was turned away. Says
the seconds of each round, how soon the crowd is turned away, and the ratio of the medians; exits 1
where the transfer keeps less than 90 % of its rate.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.swarm import wait_hashed
from p2pd.sizes import parse_size
from tests.rig import Host
from tests.rig.lan import Lan

MAX = 200
TIMES = 10
MUST = 0.9
AGAIN = 1.0
"""Seconds from being turned away to the next try."""


def crowd(host: str, port: int) -> None:
    """Until standard input ends; then says how many were turned away, and after how many seconds."""
    import selectors  # a process of its own

    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    due = [0.0] * (TIMES * MAX)
    took: list[float] = []
    while True:
        now = time.perf_counter()
        while due and due[0] <= now:
            due.pop(0)
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex((host, port))
            selector.register(one, selectors.EVENT_READ, now)
        for key, _ in selector.select(max(due[0] - now, 0.0) if due else None):
            if key.data is None:
                print(json.dumps([len(took), statistics.median(took or [0.0])]))
                return
            try:
                said = key.fileobj.recv(4096)  # type: ignore[union-attr]
            except OSError:
                said = b""
            if not said:
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                took.append(time.perf_counter() - key.data)
                due.append(time.perf_counter() + AGAIN)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=parse_size, default=512 * 2**20)
    parser.add_argument("--rate", default="400mbit", help="of each link, as tc has it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--crowd", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.crowd:
        crowd(args.crowd[0], int(args.crowd[1]))
        return 0
    host = Host(args.folder)
    lan = Lan(3, args.rate)
    host.on_close(lan.close)
    try:
        manager = host.manager("--host", "0.0.0.0", "--port", "12000", prefix=lan.on(0))
        where = f"{lan.addresses[0]}:12000"
        share = host.folder / "holder"
        share.mkdir()
        with (share / "file").open("wb") as file:
            for _ in range(0, args.size, 2**20):
                file.write(os.urandom(2**20))
        words = ("--host", "0.0.0.0", "--max", str(MAX))
        holder = host.peer("holder", *words, manager=where, prefix=lan.on(0))
        receiver = host.peer("receiver", "--host", "0.0.0.0", manager=where, prefix=lan.on(1))
        wait_hashed(holder, 1)
        receiver.wait_peers(1)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * args.rounds + 2):
            crowded = bool(number % 2)
            command = [
                *lan.on(2), sys.executable, "-m", "benchmarks.crowd",
                "--crowd", lan.addresses[0], str(holder.port),
            ]  # fmt: skip
            pushing = (
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                if crowded
                else None
            )
            done = receiver.ask(f"req file --output copy{number}", 600.0).done
            told = ""
            if pushing is not None:
                count, median = json.loads(pushing.communicate()[0])
                told = f", {count} turned away, after {1000 * median:.0f} ms (median)"
            print(f"{'crowded' if crowded else 'alone'}: {done['seconds']:.2f} s{told}", flush=True)
            if number > 1:
                seconds[crowded].append(done["seconds"])
            (host.folder / f"receiver/copy{number}").unlink()
        manager.stop()
        ratio = statistics.median(seconds[False]) / statistics.median(seconds[True])
        print(f"the transfer keeps {ratio:.3f} of its rate{'' if ratio >= MUST else ': MISSED'}")
        return 0 if ratio >= MUST else 1
    finally:
        host.close()


if __name__ == "__main__":
    sys.exit(main())
