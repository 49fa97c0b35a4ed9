"""A small daemon with a script on a real control socket, in threads; the client as a process."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

Event = dict[str, Any]
CLIENT = [sys.executable, "-c", "import sys; from p2pd.cli.main import entry; sys.exit(entry())"]

STATUS: Event = {
    "event": "done",
    "role": "peer",
    "name": "fake",
    "host": "127.0.0.1",
    "port": 7001,
    "manager": "connected",
    "peers": 2,
    "files": 1,
    "transfers": 0,
    "version": "0.1.0",
    "pid": 1,
    "problems": [],
}


class FakeDaemon:
    """Answers each command's first word with its events; ``HOLD`` among them waits for :attr:`go`,
    ``FOREVER`` until the client goes.
    """  # fmt: skip

    HOLD: ClassVar[Event] = {"event": "hold"}
    HANG_UP: ClassVar[Event] = {"event": "hang up"}
    LEAVE: ClassVar[Event] = {"event": "leave"}
    FOREVER: ClassVar[Event] = {"event": "forever"}

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self.script: dict[str, list[Event]] = {"status": [STATUS]}
        self.held = threading.Event()
        self.go = threading.Event()
        self.gone = threading.Event()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        with connected, connected.makefile("rb") as lines:
            try:
                for line in lines:
                    text = line.decode().rstrip("\n")
                    self.lines.append(text)
                    if not self._answer(connected, shlex.split(text)[0]):
                        return
            except OSError:
                pass
            finally:
                self.gone.set()

    def _answer(self, connected: socket.socket, command: str) -> bool:
        missing = {"event": "failed", "code": "usage", "message": "not in the script"}
        for event in self.script.get(command, [missing]):
            if event is self.HOLD:
                self.held.set()
                self.go.wait(30)
            elif event is self.FOREVER:
                return not connected.recv(1)  # until the client goes
            elif event is self.HANG_UP:
                return False
            elif event is self.LEAVE:
                self.close()
                return False
            else:
                connected.sendall(json.dumps(event).encode() + b"\n")
        return True


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The default control folder of this test's clients: short, because paths of sockets must be."""
    base = Path(tempfile.mkdtemp(prefix="p2t"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    monkeypatch.setenv("XDG_STATE_HOME", str(base / "state"))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    (base / "p2pd").mkdir(mode=0o700)
    yield base / "p2pd"
    shutil.rmtree(base)


MakeDaemon = Callable[..., FakeDaemon]


@pytest.fixture
def make_daemon(runtime: Path) -> Iterator[MakeDaemon]:
    made = []

    def make(socket_name: str = "peer-7001.sock", **status: object) -> FakeDaemon:
        daemon = FakeDaemon(runtime / socket_name)
        daemon.script["status"] = [STATUS | status]
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.go.set()
        daemon.close()


Client = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def p2pctl(runtime: Path) -> Client:
    """Runs the client as a process without a terminal."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLIENT, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def command_line() -> list[str]:
    return list(CLIENT)


@pytest.fixture
def dead_socket(runtime: Path) -> Path:
    """What a killed daemon leaves."""
    path = runtime / "peer-7009.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert os.path.exists(path)
    return path
