"""One file from N holders by `p2pctl req`, in turn with curl from nginx: whole commands, exec to exit.

Into a destination that does not exist, everything in memory (``--folder``, a tmpfs), the first
round discarded, contents compared outside the timing. Prints seconds of each round, medians, and
the ratio of medians. Exits 1 where the ratio is above ``--most``.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.rig.host import BIN, Host, wait_until

NGINX = """
daemon off; worker_processes 1; error_log {folder}/nginx.log; pid {folder}/nginx.pid; events {{}}
http {{
  access_log off; sendfile on;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {folder}/www; }}
}}
"""


def timed(command: list[str], env: dict[str, str], made: Path, original: Path) -> float:
    """Seconds of the whole command."""
    made.unlink(missing_ok=True)
    began = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    if not filecmp.cmp(made, original, shallow=False):
        raise SystemExit(f"{command[0]}: the copy is not the original")
    return seconds


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holders", type=int, default=1)
    parser.add_argument("--size", type=int, default=2**30, help="bytes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default="/dev/shm")
    parser.add_argument("--most", type=float, default=1.5, help="ratio of p2pd's time to curl's")
    args = parser.parse_args()
    tempfile.tempdir = args.folder
    host = Host()
    nginx = None
    try:
        www = host.folder / "www"
        www.mkdir()
        host.folder.chmod(0o755)  # nginx' worker is another user
        original = www / "file.bin"
        with original.open("wb") as file:
            for _ in range(args.size // 2**20):
                file.write(os.urandom(2**20))
        port = 18000 + os.getpid() % 1000
        (host.folder / "nginx.conf").write_text(NGINX.format(folder=host.folder, port=port))
        nginx = subprocess.Popen(["nginx", "-c", str(host.folder / "nginx.conf")])
        manager = host.manager()
        for number in range(args.holders):
            share = host.folder / f"holder{number}"
            share.mkdir()
            os.link(original, share / "file.bin")
            host.peer(share.name, manager=manager).wait_files(1)
        peer = host.peer("rx", manager=manager)
        peer.wait_peers(args.holders)
        arrived, copied = host.folder / "rx/file.bin", host.folder / "curl.bin"
        req = [str(BIN / "p2pctl"), "--port", str(peer.port), "req", "file.bin"]
        curl = ["curl", "-s", "-o", str(copied), f"http://127.0.0.1:{port}/file.bin"]
        runs: dict[str, tuple[Callable[[], float], list[float]]] = {
            "p2pd": (lambda: timed(req, host.env, arrived, original), []),
            "curl": (lambda: timed(curl, host.env, copied, original), []),
        }
        for number in range(args.rounds + 1):
            for name, (run, seconds) in runs.items():
                taken = run()
                if number:
                    seconds.append(taken)
                    print(
                        f"round {number} {name}: {taken:.3f} s, {args.size / taken / 1e6:.0f} MB/s",
                        flush=True,
                    )
            arrived.unlink()
            copied.unlink()
            wait_until(lambda: not peer.ask("files").items, "the copy is forgotten")
        medians = {name: statistics.median(seconds) for name, (_, seconds) in runs.items()}
        ratio = medians["p2pd"] / medians["curl"]
        print(f"medians: {medians['p2pd']:.3f} s, {medians['curl']:.3f} s; p2pd over curl {ratio:.2f}")
        return 1 if ratio > args.most else 0
    finally:
        if nginx is not None:
            nginx.terminate()
            nginx.wait()
        host.close()
        shutil.rmtree(host.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
