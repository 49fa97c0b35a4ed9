"""The transport of connections that are reset as soon as they are there."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_twisted import ensureDeferred
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from p2pd.net.dialling import dial
from p2pd.net.fast import FastServer, FileSlice


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


NOTSENT_LOWAT = 25


@pytest.mark.parametrize("near", [False, True])
def test_the_faster_it_goes_the_more_may_wait_in_the_kernel(near: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        transport = FastServer.__new__(FastServer)
        transport.socket = accepted
        transport.tune()
        assert transport._near, "both ends are on this machine"
        transport._near = near
        queues = []
        for count in (0, 100_000, 500_000, 300_000, 140_000, 100_000, 90_000, 0, 10**9, 1, 0):
            transport._let_wait(count)
            queues.append(accepted.getsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT) // 1024)
    # It becomes less only where it is to be three eighths: rates swing. 0 is not known.
    assert queues == ([64] * 11 if near else [64, 128, 512, 512, 256, 256, 128, 128, 1024, 32, 32])


def test_a_slice_says_how_much_may_wait_while_it_is_sent(tmp_path: Path) -> None:
    class Once:
        def __init__(self, fd: int) -> None:
            self.slices = [(b"header\n", FileSlice(fd, 2, 3, 300_000))]

        def next_slice(self) -> tuple[bytes, FileSlice] | None:
            return self.slices.pop() if self.slices else None

    (tmp_path / "f").write_bytes(b"abcdefg")
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted, open(tmp_path / "f", "rb") as file:
        transport: Any = FastServer.__new__(FastServer)
        FileDescriptor.__init__(transport, reactor=cast(Any, object()))
        transport.socket, transport.connected = accepted, 1
        transport.fileno, transport.stopWriting = accepted.fileno, lambda: None
        transport.protocol = Once(file.fileno())
        assert transport.doWrite() is None
        assert client.recv(100) == b"header\ncde"
        assert accepted.getsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT) == 512 * 1024


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


class Producer:
    """Is told to pause, as often as it is."""

    def __init__(self) -> None:
        self.paused = 0

    def pauseProducing(self) -> None:
        self.paused += 1


def written(kind: Any, steps: list[tuple[str, Any]]) -> tuple[object, ...]:
    """What a transport holds after it was written to, with a streaming producer."""
    transport = kind.__new__(kind)
    FileDescriptor.__init__(transport, reactor=cast(Any, object()))
    transport.connected = 1
    transport.producer, transport.streamingProducer = Producer(), True
    transport.startWriting = lambda: None
    outcome: list[str] = []
    for what, value in steps:
        if what == "write":
            try:
                transport.write(value)
            except TypeError:
                outcome.append("refused")
        else:
            setattr(transport, what, value)
    held = (bytes(transport.dataBuffer), b"".join(transport._tempDataBuffer), transport._tempDataLen)
    return *held, transport.producer.paused, transport.producerPaused, tuple(outcome)


class Plain(FileDescriptor):
    """Twisted's own."""


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.sampled_from([b"", b"a", b"b" * 65536, b"c" * 65537, "text"])),
            st.tuples(st.just("connected"), st.booleans()),
            st.tuples(st.just("_writeDisconnected"), st.booleans()),
            st.tuples(st.just("dataBuffer"), st.sampled_from([b"", b"d" * 65530])),
        )
    )
)
def test_writing_does_what_the_original_does(steps: list[tuple[str, Any]]) -> None:
    assert written(FastServer, steps) == written(Plain, steps)
