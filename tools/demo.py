#!/usr/bin/env python3
"""A demonstration: three peers hold a file, a fourth fetches it, one holder is killed half way.

Starts a manager and four peers on free ports, everything in one temporary
folder that is removed at the end. Exits 1 if anything was not as it should be,
130 if interrupted.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from p2pd.control import client
from p2pd.errors import P2PError

SIZE = 256 * 1024 * 1024
"""Bytes of the file."""
NAME = "demo.bin"
PATIENCE = 60.0
"""Seconds for any single step."""
BIN = Path(sys.executable).parent
CACHE = Path(__file__).parent.parent / "twisted" / "plugins" / "dropin.cache"
"""Twisted writes it next to the plugins it finds."""


class OffError(Exception):
    """Something was not as it should be."""


class Daemon:
    """A `twistd` process; its console is read by a thread, so that it never blocks."""

    def __init__(self, name: str, folder: Path, *options: str) -> None:
        self.name = name
        self.control = f"{name}.sock"
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        command = ["twistd", "-n", *options, "--control", self.control, "--state", f"{name}.state"]
        say("$ " + shlex.join(command))
        # in a session of its own: Ctrl-C is for the demonstration, which then stops everything
        self.process = subprocess.Popen(
            [str(BIN / "twistd"), *command[1:]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the match of the first console line that ``pattern`` is found in."""
        deadline = time.monotonic() + PATIENCE
        seen = 0
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if found := re.search(pattern, line):
                        return found
                seen = len(self.lines)
                if self._ended or not self._changed.wait(deadline - time.monotonic()):
                    raise OffError(f"{self.name} did not say {pattern!r}")

    def stop(self) -> None:
        """SIGTERM; OffError unless it exits with 0 in the 5 s that it has."""
        self.process.terminate()
        self.check_end()

    def check_end(self) -> None:
        """OffError unless the process ends with status 0 in 5 s."""
        try:
            status = self.process.wait(5)
        except subprocess.TimeoutExpired:
            raise OffError(f"{self.name} did not stop in 5 s") from None
        if status != 0:
            raise OffError(f"{self.name} ended with status {status}")

    def kill(self) -> None:
        """Whatever it does: end it, and wait until it has."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def say(text: str) -> None:
    """A line of the demonstration itself."""
    print(text, flush=True)


def make_file(path: Path) -> None:
    """``SIZE`` random bytes."""
    with path.open("wb") as file:
        for _ in range(SIZE // (1 << 20)):
            file.write(os.urandom(1 << 20))


def sha256(path: Path) -> str:
    """The digest of the whole file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def start_all(folder: Path, daemons: list[Daemon]) -> list[Daemon]:
    """Start the manager and the peers; return the peers, the last of which has nothing."""
    manager = Daemon("manager", folder, "p2pmanager", "--port", "0")
    daemons.append(manager)
    port = manager.wait_for(r"listening on .* port (\d+)")[1]
    peers: list[Daemon] = []
    for name in ("anna", "boris", "clara", "dora"):
        if name == "dora":
            for peer in peers:  # so that dora knows all of them from the start
                peer.wait_for("connected to the manager")
        options = ["--port", "0", "--dir", name, "--name", name, "--manager", f"localhost:{port}"]
        peers.append(Daemon(name, folder, "p2ppeer", *options))
        daemons.append(peers[-1])
    peers[-1].wait_for("connected to the manager")
    return peers


def fetch(folder: Path, dora: Daemon, victim: Daemon) -> None:
    """Ask for the file with `p2pctl req`; kill ``victim`` as soon as half of it has come."""
    command = ["--socket", dora.control, "req", NAME]
    say("\n$ " + shlex.join(["p2pctl", *command]))
    asking = subprocess.Popen([str(BIN / "p2pctl"), *command], cwd=folder)
    killed_at = None
    try:
        ended = os.pidfd_open(asking.pid)
        with client.connect(str(folder / dora.control)) as control:
            while not select.select([ended], [], [], 0.01)[0] and killed_at is None:
                rows = [event for event in control.ask(["transfers"], PATIENCE) if event["event"] == "item"]
                came = max((row["bytes"] for row in rows if row["direction"] == "in"), default=0)
                if came >= SIZE // 2:
                    victim.kill()
                    killed_at = came
        os.close(ended)
        status = asking.wait(PATIENCE)
    finally:
        asking.kill()
        asking.wait()
    if status != 0:
        raise OffError(f"p2pctl ended with status {status}")
    if killed_at is None or killed_at >= SIZE:
        raise OffError("the transfer had ended before a holder could be killed")
    say(f"{victim.name} was killed (kill -9) when {100 * killed_at // SIZE}% had come.\n")


def run(folder: Path, daemons: list[Daemon]) -> None:
    """The whole demonstration; OffError where something is off."""
    say(f"Making a file of {SIZE >> 20} MiB and giving it to anna, boris and clara, in {folder} ...")
    for name in ("anna", "boris", "clara", "dora"):
        (folder / name).mkdir()
    original = folder / "anna" / NAME
    make_file(original)
    for name in ("boris", "clara"):
        shutil.copyfile(original, folder / name / NAME)
    *holders, dora = start_all(folder, daemons)
    say("\nboris will be killed half way.")
    fetch(folder, dora, holders[1])
    digests = [sha256(original), sha256(folder / "dora" / NAME)]
    say(f"sha256 of anna's file: {digests[0]}\nsha256 of dora's file: {digests[1]}")
    if digests[0] != digests[1]:
        raise OffError("the files differ")
    say("They are the same.\n")
    for peer in (holders[0], holders[2], dora):
        command = ["--socket", peer.control, "left_peer"]
        say("$ " + shlex.join(["p2pctl", *command]))
        subprocess.run([str(BIN / "p2pctl"), *command], cwd=folder, check=True, timeout=PATIENCE)
        peer.check_end()
    daemons[0].stop()


def main() -> int:
    """Run it and clean up, whatever happens; returns the exit status."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    cached = CACHE.exists()
    folder = Path(tempfile.mkdtemp(prefix="p2pd-demo-"))
    daemons: list[Daemon] = []
    try:
        if shutil.disk_usage(folder).free < 5 * SIZE:
            raise OffError(f"{folder} has less than {5 * SIZE >> 20} MiB free; TMPDIR can name another place")
        run(folder, daemons)
        say("Everything was as it should be.")
        return 0
    except KeyboardInterrupt:
        say("\nInterrupted.")
        return 130
    except (OffError, OSError, P2PError, subprocess.SubprocessError) as error:
        say(f"\nSomething was off: {error}")
        for daemon in daemons:
            say("\n".join(f"  {daemon.name}: {line}" for line in daemon.lines[-15:]))
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # cleaning up is short, and not to be left half done
        for daemon in daemons:
            daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)
        if not cached:
            CACHE.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
