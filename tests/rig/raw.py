"""A peer made of a plain socket: says what it is told to, also what no peer would say."""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import socket
import sys
import termios
import threading
import time
from collections.abc import Mapping
from typing import Any

from p2pd.wire import messages as m
from p2pd.wire.codec import Body, Decoder, UnknownVerb, encode
from tests.rig.host import PATIENCE


class Closed(Exception):
    """The other side closed the connection, in order or by reset."""


class Raw:
    """A connection to ``port``; :meth:`hello` introduces it."""

    def __init__(
        self, port: int, host: str = "127.0.0.1", table: Mapping[str, type[m.Message]] = m.PEER_TO_PEER,
        sock: socket.socket | None = None,
    ) -> None:  # fmt: skip
        self.id = secrets.token_hex(16)
        self.socket = sock if sock is not None else socket.create_connection((host, port), PATIENCE)
        self.socket.settimeout(PATIENCE)
        self._decoder = Decoder(table)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()

    def send(self, data: m.Message | bytes, body: bytes = b"") -> None:
        """A message with its body, or any bytes. Closed where the other side is gone."""
        try:
            self.socket.sendall((encode(data) if isinstance(data, m.Message) else data) + body)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None

    def hello(self, name: str = "raw", port: int = 0) -> m.Hello:
        """Introduce ourselves; the other's hello."""
        self.send(m.Hello(*m.VERSION, self.id, name, port))
        answer: m.Hello = self.expect(m.Hello)
        return answer

    def receive(self) -> m.Message | Body | UnknownVerb:
        """The next event. Closed where no more comes."""
        while (event := self._decoder.next_event()) is None:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                raise Closed from None
            if not data:
                raise Closed
            self._decoder.receive(data)
        return event

    def expect(self, wanted: type[Any]) -> Any:
        """The next message of that class; pings are answered, others passed over."""
        while True:
            event = self.receive()
            if isinstance(event, wanted):
                return event
            if isinstance(event, m.Ping):
                self.send(m.Pong(event.number))
            if isinstance(event, m.Error):
                raise AssertionError(f"error: {event.code}: {event.message}")

    @property
    def unacknowledged(self) -> int:
        """Bytes sent that the other's kernel has not taken."""
        return int.from_bytes(fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)

    def body(self, length: int) -> bytes:
        """``length`` bytes of the body that comes now."""
        data = b""
        while len(data) < length:
            event = self.receive()
            assert isinstance(event, Body)
            data += event.data
        return data

    def expect_error(self) -> m.Error:
        """An `error` line, then the end of the connection; what comes before is passed over."""
        error = None
        try:
            while True:
                event = self.receive()
                if isinstance(event, m.Error):
                    error = event
        except Closed:
            pass
        assert error is not None, "closed without an error line"
        return error

    def expect_end(self) -> None:
        """The end of the connection, in order or not."""
        with contextlib.suppress(Closed):
            while True:
                self.receive()

    def req(self, name: str, number: int = 1, piece_size: int = 0) -> m.Message:
        """Ask for a file; `have` or `not have`."""
        self.send(m.Req(number, name, piece_size))
        while True:
            event = self.receive()
            if isinstance(event, m.Have | m.NotHave) and event.req == number:
                return event
            if isinstance(event, m.Ping):
                self.send(m.Pong(event.number))

    def fetch(self, have: m.Have, offset: int, length: int) -> bytes:
        """One range of what was offered, by as many grants as that takes."""
        end, parts = offset + length, dict[int, bytes]()
        self.send(m.Want(have.file, 1))
        while sum(map(len, parts.values())) < length:
            grant = self.expect(m.Grant)
            if grant.file != have.file:
                continue  # what was fetched before stands wanted
            start = max(offset, grant.first * have.piece_size) if grant.count else offset
            while start in parts:
                start += len(parts[start])
            count = min(end - start, grant.bytes)
            if grant.count:
                count = min(count, (grant.first + grant.count) * have.piece_size - start)
            if count <= 0:
                self.send(m.Decline(grant.grant))
                continue
            self.send(m.Get(grant.grant, start, count))
            content = b""
            while len(content) < count:
                frame = self.expect(m.Data)
                assert frame.offset == start + len(content)
                content += self.body(frame.length)
            parts[start] = content
        return b"".join(parts[start] for start in sorted(parts))


class ManagerLink:
    """A registration at a manager that is kept up until closed: lets any address and id be listed."""

    def __init__(self, manager_port: int, peer_id: str, name: str, port: int) -> None:
        self._raw = Raw(manager_port, table=m.MANAGER_TO_PEER)
        self._raw.send(m.NewPeer(*m.VERSION, peer_id, name, port, ["0.0.0.0"], "", ""))
        self.welcome: m.Welcome = self._raw.expect(m.Welcome)
        self._raw.socket.settimeout(1.0)
        self._open = True
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        pinged = time.monotonic()
        while self._open:
            try:
                self._raw.receive()
            except TimeoutError:
                pass
            except (Closed, OSError):
                return
            if time.monotonic() - pinged > self.welcome.lease / 3:
                pinged = time.monotonic()
                with contextlib.suppress(Closed, OSError):
                    self._raw.send(m.Ping(1))

    def close(self) -> None:
        self._open = False
        self._raw.close()
