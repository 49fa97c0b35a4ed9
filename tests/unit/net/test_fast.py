"""The transport of connections that are reset as soon as they are there."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from p2pd.net.fast import FastServer, dial


def test_a_connection_that_was_reset_already_is_tuned_without_a_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with accepted:
        with pytest.raises(OSError, match="not connected"):
            accepted.getpeername()
        transport = FastServer.__new__(FastServer)
        transport.socket = accepted
        transport.tune()


class Reset(Protocol):
    """Its other side is gone before it can say that it is connected."""

    body_left = 0

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self._server.close()

    def body_target(self) -> None:
        return None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


@ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_dial_that_is_lost_before_it_is_made_fails() -> None:
    from twisted.internet import reactor

    server = socket.create_server(("127.0.0.1", 0))
    protocol = Reset(server)
    outcome: list[Any] = []
    dial(reactor, "127.0.0.1", server.getsockname()[1], protocol).addBoth(outcome.append)
    await protocol.lost
    await deferLater(reactor, 0)
    assert [each.type for each in outcome] == [ConnectError]
