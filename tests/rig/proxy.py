"""A TCP proxy with toxics, after Toxiproxy's: stands before a real peer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

import attrs

from tests.rig.raw import ManagerLink, Raw


@attrs.define
class Toxics:
    """What the wire does to bytes from the real peer (downstream). All may be changed while it runs."""

    rate: int | None = None
    """Bytes per second."""
    slice: int | None = None
    """Bytes per segment."""
    change: Callable[[int, bytes], bytes] | None = None
    """Given the offset in the stream and the bytes, gives the bytes to pass on."""
    limit: int | None = None
    """Bytes after which the connection is closed,"""
    reset: bool = False
    """or reset."""
    down: bool = False
    """New connections are closed at once."""


class Proxy:
    """Listens on ``port`` and connects on to ``target``; :meth:`cut` ends all connections."""

    def __init__(self, target: int, toxics: Toxics | None = None) -> None:
        self.target = target
        self.toxics = toxics or Toxics()
        self.passed = 0
        self.go = threading.Event()
        """Cleared: nothing is passed on downstream (a hung wire)."""
        self.go.set()
        self._link: ManagerLink | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def listed(self, manager_port: int, name: str) -> Proxy:
        """List it at the manager, under the id of the peer behind it."""
        with Raw(self.target) as raw:
            peer_id = raw.hello().id
        self._link = ManagerLink(manager_port, peer_id, name, self.port)
        return self

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.toxics.down:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            for source, sink, down in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, down), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, down: bool) -> None:
        offset = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if down:
                    self.go.wait()
                    toxics = self.toxics
                    if toxics.change is not None:
                        data = toxics.change(offset, data)
                    offset += len(data)
                    self._down(sink, data)
                    if toxics.limit is not None and offset >= toxics.limit:
                        if toxics.reset:
                            sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        break
                else:
                    sink.sendall(data)
            else:
                sink.shutdown(socket.SHUT_WR)
                return
        for each in (source, sink):
            # A close alone would wait for the other thread, which reads.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RD if self.toxics.reset else socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                each.close()

    def _down(self, sink: socket.socket, data: bytes) -> None:
        toxics = self.toxics
        step = toxics.slice or (max(1, min(4096, toxics.rate // 10)) if toxics.rate else len(data))
        for at in range(0, len(data), step):
            part = data[at : at + step]
            sink.sendall(part)
            self.passed += len(part)
            if toxics.rate:
                time.sleep(len(part) / toxics.rate)

    def cut(self) -> None:
        """End all connections at once."""
        for pair in self._pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        self.go.set()
        if self._link is not None:
            self._link.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
