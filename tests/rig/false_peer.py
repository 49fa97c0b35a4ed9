"""A holder with flaws: offers a content as any peer does, and lies, stalls or dies as told."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from typing import Any

import attrs
import blake3

from p2pd.model import Manifest
from p2pd.pieces import default_piece_size
from p2pd.wire import messages as m
from tests.rig.raw import Closed, ManagerLink, Raw


def manifest_of(content: bytes, piece_size: int = 0) -> Manifest:
    """The manifest of ``content``."""
    piece_size = piece_size or default_piece_size(len(content))
    hashes = b"".join(
        blake3.blake3(content[at : at + piece_size]).digest() for at in range(0, len(content), piece_size)
    )
    return Manifest(len(content), piece_size, hashes)


@attrs.define
class Flaws:
    """What is wrong with it. Offsets are in the file, sizes in bytes."""

    flip: set[int] = attrs.Factory(set)
    """Bytes of the content that are sent with one bit changed."""
    flip_manifest: int | None = None
    """Byte of the piece list that is sent changed."""
    size: int | None = None
    """The size that it claims in `have`."""
    bitfield: bytes = b""
    """Where it claims in `have` to hold some pieces only: which."""
    frame_longer: int = 0
    """Bytes that a frame's header claims beyond what was asked for."""
    frame_shift: int = 0
    """Added to the offset that a frame's header claims."""
    after: int | None = None
    """Bytes sent after which ``then`` happens, once."""
    then: str = ""
    """``close``, ``reset``, ``stall`` (until :attr:`FalsePeer.go_on` is set) or ``garbage``."""
    no_list: bool = False
    """It hangs when it is asked for the piece list, until :attr:`FalsePeer.go_on` is set."""
    no_grant: bool = False
    """It is asked for grants and gives none."""
    dies: bool = False
    """After ``close`` or ``reset`` it is gone for good: also from the manager's list."""
    rate: int | None = None
    """Bytes per second at most."""


class FalsePeer:
    """Listens, is listed at the manager, serves ``name`` with its flaws until closed."""

    def __init__(
        self, manager_port: int, name: str, content: bytes, flaws: Flaws, *, peer: str = "false",
        piece_size: int = 0, peer_id: str | None = None,
    ) -> None:  # fmt: skip
        self.name, self.content, self.flaws, self.peer = name, content, flaws, peer
        self.manifest = manifest_of(content, piece_size)
        self.id = peer_id or secrets.token_hex(16)
        self.sent = 0
        self.gets: list[m.Get] = []
        self.refused: list[m.Error] = []
        self.go_on = threading.Event()
        self.asked = threading.Event()
        """Set once a `req` was answered."""
        self.served = threading.Event()
        """Set once a `get` came."""
        self.listed = threading.Event()
        """Set once its piece list was asked for."""
        self.lists = 0
        """How often it was."""
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = True
        self._links: list[Raw] = []
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()
        self.link = ManagerLink(manager_port, self.id, peer, self.port)

    def close(self) -> None:
        self.go_on.set()
        self._gone()
        self.hang_up()

    def hang_up(self) -> None:
        """End all connections; whoever wants may connect anew."""
        for link in self._links:
            # A close alone would wait for its thread, which reads.
            with contextlib.suppress(OSError):
                link.socket.shutdown(socket.SHUT_RDWR)
            link.close()
        self._links.clear()

    def gets_before(self) -> int:
        """How many `get` came of those who are gone; what of theirs still waits in a socket is read first."""
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "somebody is still connected"
        self._threads.clear()
        return len(self.gets)

    def _gone(self) -> None:
        self._open = False
        self.link.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            raw = Raw(0, sock=sock)
            raw.socket.settimeout(None)
            self._links.append(raw)
            thread = threading.Thread(target=self._serve, args=(raw,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: Raw) -> None:
        with contextlib.suppress(Closed, OSError, AssertionError):
            raw.send(m.Hello(*m.VERSION, self.id, self.peer, self.port))
            grants = 0
            while True:
                event: Any = raw.receive()
                if isinstance(event, m.Error):
                    self.refused.append(event)
                elif isinstance(event, m.Req):
                    raw.send(*self._answer(event))
                    self.asked.set()
                elif isinstance(event, m.ManifestReq):
                    self.listed.set()
                    self.lists += 1
                    if self.flaws.no_list:
                        self.go_on.wait()
                    raw.send(*self._piece_list())
                elif isinstance(event, m.Want) and not self.flaws.no_grant:
                    for _ in range(event.count):
                        grants += 1
                        raw.send(m.Grant(event.file, grants, 16 * 2**20))
                elif isinstance(event, m.Get):
                    self.gets.append(event)
                    self.served.set()
                    self._send_range(raw, event)
                    grants += 1
                    raw.send(m.Grant(self.manifest.file_id, grants, 16 * 2**20))
                elif isinstance(event, m.Cancel):
                    raw.send(m.Cancelled(event.grant))
                elif isinstance(event, m.Ping):
                    raw.send(m.Pong(event.number))

    def _answer(self, req: m.Req) -> tuple[m.Message, bytes]:
        if req.name != self.name:
            return m.NotHave(req.req, req.name), b""
        size = self.manifest.size if self.flaws.size is None else self.flaws.size
        field = self.flaws.bitfield
        file_id, piece_size = self.manifest.file_id, self.manifest.piece_size
        return m.Have(req.req, req.name, size, piece_size, file_id, len(field)), field

    def _piece_list(self) -> tuple[m.Message, bytes]:
        hashes = bytearray(self.manifest.hashes)
        if self.flaws.flip_manifest is not None:
            hashes[self.flaws.flip_manifest] ^= 1
        size = self.manifest.size if self.flaws.size is None else self.flaws.size
        made = m.PieceList(self.manifest.file_id, size, self.manifest.piece_size, len(hashes))
        return made, bytes(hashes)

    def _send_range(self, raw: Raw, get: m.Get) -> None:
        at, end = get.offset, get.offset + get.length
        step = 65536 if self.flaws.rate is None else max(1, min(65536, self.flaws.rate // 10))
        while at < end:
            length = min(step, end - at)
            if self.flaws.after is not None and self.sent + length > self.flaws.after:
                self._happen(raw, m.Data(get.grant, at, length))
            data = bytearray(self.content[at : at + length])
            for position in self.flaws.flip:
                if at <= position < at + length:
                    data[position - at] ^= 1
            claimed = max(1, length + self.flaws.frame_longer)
            raw.send(m.Data(get.grant, at + self.flaws.frame_shift, claimed), bytes(data))
            self.sent += length
            at += length
            if self.flaws.rate is not None:
                # A slow wire: nobody waits for this but the daemon under test.
                time.sleep(length / self.flaws.rate)

    def _happen(self, raw: Raw, header: m.Data) -> None:
        then, self.flaws.after = self.flaws.then, None
        if self.flaws.dies and then in ("close", "reset"):
            self._gone()
        if then == "close":
            raw.send(header, b"x" * (header.length // 2))
            raw.socket.shutdown(socket.SHUT_RDWR)
            raise Closed
        if then == "reset":
            raw.send(header, b"x" * (header.length // 2))
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            raw.socket.close()
            raise Closed
        if then == "garbage":
            raw.send(secrets.token_bytes(100_000))
        elif then == "stall":
            self.go_on.wait()
