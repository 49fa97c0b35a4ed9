"""A control service on a real socket in a short folder, with handlers that the tests steer."""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer, reactor, threads

from p2pd.control.server import ControlService, Emit, Limits
from p2pd.errors import ConflictError, P2PError


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: pytest's own folders can be longer than the path of a socket may be."""
    made = tempfile.mkdtemp(prefix="p2c")
    yield Path(made)
    shutil.rmtree(made)


class FakeHandlers:
    """`req NAME` runs until ``release(NAME)``; notes who was cancelled."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self._gates: dict[str, defer.Deferred[None]] = {}
        self._changed: list[defer.Deferred[None]] = []
        self.burst: Callable[[Emit], None] = lambda emit: None

    async def cmd_req(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        gate: defer.Deferred[None] = defer.Deferred()
        self._gates[args.file] = gate
        self.started.append(args.file)
        emit({"event": "started", "transfer": args.file})
        self.burst(emit)
        self._notify()
        try:
            await gate
        except defer.CancelledError:
            self.cancelled.append(args.file)
            self._notify()
            raise
        return {"name": args.file}

    async def cmd_files(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        emit({"event": "item", "name": "a", "size": 1, "id": None})
        return {}

    async def cmd_peers(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        return {"rows": ({"name": f"p{n}", "host": "h", "port": n, "id": "0" * 32} for n in range(50_000))}

    async def cmd_status(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        return {"role": "peer", "problems": ["\x1b[31m"]}

    async def cmd_cancel(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        raise ConflictError("two\nlines", variants=[{"id": "x", "size": 1, "holders": ["a"]}])

    async def cmd_pause(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        raise KeyError("secret")

    async def cmd_resume(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        raise P2PError("odd", detail=object())

    async def cmd_left_peer(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        await defer.Deferred()
        return {}

    async def cmd_transfers(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        return {"bad": float("nan")}

    def release(self, name: str) -> None:
        self._gates.pop(name).callback(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when ``condition`` holds after something happened here."""
        while not condition():
            changed: defer.Deferred[None] = defer.Deferred()
            self._changed.append(changed)
            await changed.addTimeout(20, reactor)

    def _notify(self) -> None:
        waiting, self._changed = self._changed, []
        for changed in waiting:
            changed.callback(None)


class Client:
    """A blocking client whose steps run in threads, so that the reactor can serve it meanwhile."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    async def event(self) -> dict[str, Any]:
        line = await threads.deferToThread(self._line)
        event: dict[str, Any] = json.loads(line)
        return event

    async def rest(self) -> list[dict[str, Any]]:
        """All events until the server closes."""
        data = await threads.deferToThread(self._rest)
        return [json.loads(line) for line in data.splitlines()]

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            data = self.socket.recv(65536)
            assert data, "the server hung up"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _rest(self) -> bytes:
        data, self._buffer = self._buffer, b""
        parts = [data]
        try:
            while data := self.socket.recv(65536):
                parts.append(data)
        except ConnectionResetError:
            pass
        return b"".join(parts)


class Rig:
    """One service and its clients."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "p.sock"
        self.handlers = FakeHandlers()
        self.services: list[ControlService] = []
        self.clients: list[Client] = []

    async def serve(self, limits: Limits | None = None, role: str = "peer") -> ControlService:
        service = ControlService(reactor, str(self.path), self.handlers, role, limits)
        await service.start()
        self.services.append(service)
        return service

    def client(self) -> Client:
        client = Client(self.path)
        self.clients.append(client)
        return client


@pytest.fixture
def rig(folder: Path) -> Iterator[Rig]:
    made = Rig(folder)
    yield made
    for client in made.clients:
        client.socket.close()
    import pytest_twisted

    for service in made.services:
        pytest_twisted.blockon(defer.ensureDeferred(service.stop()))
