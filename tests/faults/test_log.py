"""Fault 95: floods of log lines, a full disk under the log, and readers that stall or go."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from p2pd.net.flood import RARE
from tests.rig import Daemon, Host, Oracle, Raw
from tests.rig.host import wait_until


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def start(host: Host, shell: str, *, logfile: Path | None = None, **files: bytes) -> Daemon:
    """A peer whose standard output is where the ``shell`` puts it; nobody reads its console here."""
    share = host.folder / "rx"
    share.mkdir()
    for name, content in files.items():
        (share / name).write_bytes(content)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    args = ["--name", "rx", "--dir", str(share), "--port", str(port), "--no-manager"]
    daemon = Daemon(
        host, "p2ppeer", args, wait=False, prefix=["sh", "-c", f'exec "$@" {shell}', "sh"],
        twistd=["--logfile", str(logfile)] if logfile is not None else [],
    )  # fmt: skip
    daemon.port, daemon.share = port, share
    host.daemons.append(daemon)
    wait_until(lambda: _listens(daemon), "its socket")
    daemon.wait_files(len(files))
    return daemon


def _listens(daemon: Daemon) -> bool:
    """The socket is there a moment before anybody listens on it."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(daemon.socket_path)) == 0


def complain(daemon: Daemon, count: int) -> None:
    """``count`` connections that break the protocol: a line of the log for each."""
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", daemon.port))
        with client, contextlib.suppress(ConnectionError):
            client.sendall(b"x" * 40 + b"\n")
            while client.recv(65536):
                pass


@pytest.mark.fault(95)
@pytest.mark.parametrize("role", ["p2ppeer", "p2pmanager"])
def test_what_a_hostile_peer_causes_is_limited_by_kind(host: Host, role: str) -> None:
    daemon = host.peer("rx") if role == "p2ppeer" else host.manager()
    oracle = Oracle(host, [daemon])
    count = int(RARE[0]) * 2
    complain(daemon, count)
    last = daemon.console.wait(r"\[-\] (\d+) more lines suppressed: ")
    kind = "is dropped: a line is" if role == "p2ppeer" else "closed a connection from"

    def all_accounted_for() -> bool:
        printed = sum(kind in line and "suppressed" not in line for line in daemon.console.lines)
        counts = [re.search(r"\[-\] (\d+) more lines suppressed", line) for line in daemon.console.lines]
        return printed + sum(int(each.group(1)) for each in counts if each) == count

    assert int(last.group(1)) > 0
    wait_until(all_accounted_for, f"all {count} are printed or counted\n{daemon.console.text()[-3000:]}")
    oracle.check()


@pytest.mark.fault(95)
def test_the_lines_of_other_kinds_are_not_suppressed(host: Host) -> None:
    peer = host.peer("rx", files={"f": b"content"})
    oracle = Oracle(host, [peer])
    complain(peer, int(RARE[0]) + 50)
    with Raw(peer.port) as raw:
        raw.hello()
        have = raw.req("f")
        assert raw.fetch(have, 0, 7) == b"content"  # type: ignore[arg-type]
    peer.console.wait("f: sent 7 bytes to raw")
    oracle.check()


@pytest.mark.fault(95)
@pytest.mark.needs("root", "mount")
@pytest.mark.parametrize("way", ["stdout", "logfile"])
def test_a_full_disk_under_the_log(host: Host, way: str) -> None:
    content = Random(way).randbytes(100_000)
    with small_disk(host.folder / "disk", "64k") as disk:
        ballast, log = disk / "ballast", disk / "log"
        log.touch()
        if way == "stdout":
            daemon = start(host, f">>{log} 2>&1", f=content)
        else:
            daemon = start(host, "", logfile=log, f=content)
        oracle = Oracle(host, [daemon], {"f": content})
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        complain(daemon, 120)  # more than fits the page that the log has begun
        oracle.answers(daemon)
        with Raw(daemon.port) as raw:
            raw.hello()
            have = raw.req("f")
            assert raw.fetch(have, 0, 1000) == content[:1000]  # type: ignore[arg-type]
        ballast.unlink()

        def goes_on() -> bool:
            complain(daemon, 1)
            text = log.read_text()
            return "is dropped" in text.splitlines()[-1] and (way == "stdout" or "were lost here" in text)

        wait_until(goes_on, "the log goes on when there is room")
        oracle.check()
        assert daemon.stop() == 0


@pytest.mark.fault(95)
def test_without_a_standard_output(host: Host) -> None:
    """Its number may be some other file's then: not a line of the log may end there."""
    content = os.urandom(100_000)
    daemon = start(host, ">&- 2>&-", f=content)
    oracle = Oracle(host, [daemon], {"f": content})
    complain(daemon, 20)
    with Raw(daemon.port) as raw:
        raw.hello()
        assert raw.fetch(raw.req("f"), 0, 1000) == content[:1000]  # type: ignore[arg-type]
    oracle.check()
    for path in host.folder.rglob("*"):
        if path.is_file():
            assert b"is dropped" not in path.read_bytes(), path
    assert daemon.stop() == 0


@pytest.mark.fault(95)
@pytest.mark.parametrize("goes", [True, False])
def test_a_reader_that_goes_or_stalls(host: Host, goes: bool) -> None:
    content = os.urandom(100_000)
    fifo = host.folder / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    daemon = start(host, f">{fifo} 2>&1", f=content)
    oracle = Oracle(host, [daemon], {"f": content})
    if goes:
        os.close(reader)
    complain(daemon, 250)
    with Raw(daemon.port) as raw:
        raw.hello()
        have = raw.req("f")
        for _ in range(400):  # a line for each: more than a pipe holds
            assert raw.fetch(have, 0, 10) == content[:10]  # type: ignore[arg-type]
        daemon.status()
    if not goes:
        said = bytearray()

        def read() -> bool:
            with contextlib.suppress(BlockingIOError):
                while part := os.read(reader, 65536):
                    said.extend(part)
            return said.count(b"sent piece 0 of f") == 400

        wait_until(read, "all that waited is there")
        os.set_blocking(reader, True)
        threading.Thread(target=lambda: list(iter(lambda: os.read(reader, 65536), b"")), daemon=True).start()
    oracle.check()
    assert daemon.stop() == 0
