"""What people use now: nginx with curl and with aria2c, an rsync daemon, libtorrent, bare sockets.

Servers are up before anything is timed, started with what makes them fast; nothing is encrypted.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO

import attrs

from benchmarks.contender import Contender
from benchmarks.measure import BenchError

HERE = Path(__file__).parent
PATIENCE = 30.0
NEEDED = {
    "nginx": "Debian package nginx-light",
    "curl": "Debian package curl",
    "aria2c": "Debian package aria2",
    "rsync": "Debian package rsync",
    "libtorrent": "PyPI package libtorrent, in the extra `bench`",
}
"""Programs and modules, and what to install for each."""
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
NGINX = """
daemon off; {user} worker_processes auto; error_log {folder}/nginx.log; pid {folder}/nginx.pid; events {{}}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {served}; }}
}}
"""
RSYNCD = """
address = 127.0.0.1
port = {port}
use chroot = no
log file = {folder}/rsyncd.log
{user}
[served]
path = {served}
read only = yes
"""


@attrs.frozen
class Place:
    """Where a part is measured: ``original`` is served from its folder, copies go into ``copies``."""

    folder: Path
    original: Path
    copies: Path


def program(name: str) -> str | None:
    """The path of a program; servers lie where PATH does not always lead."""
    return shutil.which(name, path=_PATH)


def missing(contenders: Collection[str]) -> list[str]:
    """What the contenders need and is not there, with what to install."""
    needs = {"curl": ("nginx", "curl"), "rsync": ("rsync",), "libtorrent": ("libtorrent",)}
    needs |= dict.fromkeys(("aria2", "aria2-4"), ("nginx", "aria2c"))
    wanted = {name for key in contenders for name in needs.get(key, ())}
    absent = [
        name
        for name in NEEDED
        if name in wanted and not (importlib.util.find_spec(name) if name == "libtorrent" else program(name))
    ]
    return [f"{name} ({NEEDED[name]})" for name in absent]


def versions() -> dict[str, str]:
    """Of what is there."""
    found = {}
    for name, option in (("nginx", "-v"), ("curl", "-V"), ("aria2c", "-v"), ("rsync", "--version")):
        path = program(name)
        if path is not None:
            done = subprocess.run([path, option], capture_output=True, text=True, check=True)
            match = re.search(r"\d+\.\d[\w.+]*", done.stdout + done.stderr)
            found[name] = match.group() if match else "unknown"
    for module in ("libtorrent", "twisted", "blake3"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[module] = importlib.metadata.version(module)
    return found


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_listening(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    raise BenchError(f"{process.args!r} does not listen")


@contextlib.contextmanager
def _server(*command: str, log: IO[str] | None = None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log or None
    )
    try:
        yield process
    finally:
        # Those that watch their standard input end by it; nginx and rsync by the signal.
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _said_port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    if not text.isdigit():
        raise BenchError(f"{process.args!r} did not start")
    return int(text)


def nginx(stack: contextlib.ExitStack, place: Place) -> list[Contender]:
    """curl, and aria2c by one connection and by four."""
    path, port = program("nginx"), free_port()
    assert path is not None
    config = place.folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    served = place.original.parent
    config.write_text(NGINX.format(folder=place.folder, port=port, served=served, user=user))
    server = stack.enter_context(_server(path, "-c", str(config)))
    _wait_listening(port, server)
    url = f"http://127.0.0.1:{port}/{place.original.name}"

    def contender(key: str, title: str, *command: str) -> Contender:
        made = place.copies / key
        return Contender(key, title, [*command, url], made, os.environ, lambda: [server.pid])

    def aria(connections: int) -> list[str]:
        key = "aria2" if connections == 1 else f"aria2-{connections}"
        return [
            "aria2c", "--no-conf", "--quiet", f"-x{connections}", f"-s{connections}",
            "--file-allocation=none", "-d", str(place.copies), "-o", key,
        ]  # fmt: skip

    return [
        contender("curl", "curl from nginx", "curl", "-sS", "-o", str(place.copies / "curl")),
        contender("aria2", "aria2c -x1 from nginx", *aria(1)),
        contender("aria2-4", "aria2c -x4 -s4 from nginx", *aria(4)),
    ]


def rsync(stack: contextlib.ExitStack, place: Place) -> list[Contender]:
    """The rsync daemon, whole files."""
    port = free_port()
    config = place.folder / "rsyncd.conf"
    user = "uid = root\ngid = root" if os.geteuid() == 0 else ""
    config.write_text(RSYNCD.format(folder=place.folder, port=port, served=place.original.parent, user=user))
    server = stack.enter_context(_server("rsync", "--daemon", "--no-detach", f"--config={config}"))
    _wait_listening(port, server)
    made = place.copies / "rsync"
    command = ["rsync", "--whole-file", f"rsync://127.0.0.1:{port}/served/{place.original.name}", str(made)]
    return [Contender("rsync", "rsync daemon", command, made, os.environ, lambda: [server.pid])]


def libtorrent(stack: contextlib.ExitStack, place: Place) -> list[Contender]:
    """One that seeds and one that leeches.

    The one that seeds is started anew for each run, before the timing: it maps the file into its memory,
    and a file that is mapped cannot be made cold for the others.
    """
    script, torrent = [sys.executable, str(HERE / "torrent.py")], place.folder / "original.torrent"
    subprocess.run([*script, "make", str(place.original), str(torrent)], check=True)
    copies = place.copies / "torrent"
    copies.mkdir()
    command = [*script, "leech", str(torrent), str(copies), "0"]
    running = contextlib.ExitStack()
    stack.callback(running.close)
    pids: list[int] = []

    def before() -> None:
        server = running.enter_context(_server(*script, "seed", str(torrent), str(place.original.parent)))
        command[-1] = str(_said_port(server))
        pids[:] = [server.pid]

    made = copies / place.original.name
    return [
        Contender(
            "libtorrent", "libtorrent", command, made, os.environ, lambda: list(pids),
            before=before, after=running.close,
        )
    ]  # fmt: skip


def raw(stack: contextlib.ExitStack, place: Place) -> list[Contender]:
    """Bare sockets, without and with hashing."""
    script = [sys.executable, "-I", str(HERE / "raw_socket.py")]
    server = stack.enter_context(_server(*script, "send", str(place.original)))
    port = str(_said_port(server))

    def contender(key: str, title: str, *more: str) -> Contender:
        made = place.copies / key
        command = [*script, "receive", port, str(made), *more]
        return Contender(key, title, command, made, os.environ, lambda: [server.pid])

    return [
        contender("raw", "limit: raw sockets"),
        contender("raw-hash", "limit: raw sockets and BLAKE3", "hash"),
    ]


MAKERS: dict[Callable[[contextlib.ExitStack, Place], list[Contender]], set[str]] = {
    nginx: {"curl", "aria2", "aria2-4"},
    rsync: {"rsync"},
    libtorrent: {"libtorrent"},
    raw: {"raw", "raw-hash"},
}
"""What starts what is needed for the contenders of these keys."""
