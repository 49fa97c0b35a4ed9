import json
from typing import Any, cast

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport as UntypedTransport
from twisted.python.failure import Failure

from p2pd.manager.hub import Hub
from p2pd.manager.protocol import ManagerFactory
from p2pd.manager.registry import Registry

OWN = {"127.0.0.1", "10.0.0.1"}


StringTransport: Any = UntypedTransport


class Line(StringTransport):  # type: ignore[misc]
    """A connection to the manager, seen from the peer: what it was sent, and ways to be a bad peer."""

    def __init__(self, factory: Any, host: str) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, 40000))
        self.write_closed = False
        self.protocol = factory.buildProtocol(self.peerAddr)
        if self.protocol is not None:
            self.protocol.makeConnection(self)

    def loseWriteConnection(self) -> None:
        self.write_closed = True

    def setTcpKeepAlive(self, on: Any) -> None:
        pass

    def setTcpNoDelay(self, on: Any) -> None:
        pass

    def abortConnection(self) -> None:
        super().abortConnection()
        self.end(ConnectionLost())

    def loseConnection(self) -> None:
        super().loseConnection()
        self.end(ConnectionDone())

    def end(self, why: Any = None) -> None:
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(why or ConnectionDone()))

    def say(self, verb: str, **fields: Any) -> None:
        self.protocol.dataReceived(f"{verb} {json.dumps(fields)}\n".encode())

    def announce(
        self, number: int, name: str | None = None, listen: Any = ("0.0.0.0",), cookie: str = "", **more: Any
    ) -> None:
        fields = {"major": 1, "minor": 0, "id": f"{number:032x}", "name": name or f"p{number}"}
        fields |= {"port": 7000 + number, "listen": list(listen), "advertise": "", "cookie": cookie} | more
        self.say("new_peer", **fields)

    def heard(self) -> Any:
        """(verb, fields) of the lines since the last call."""
        lines = self.value().decode().split("\n")
        assert lines.pop() == ""
        self.clear()
        found = []
        for line in lines:
            verb, _, fields = line.partition(" {")
            found.append((verb, json.loads("{" + fields)))
        return found


class Store:
    problem = ""

    def __init__(self) -> None:
        self.saved: list[Any] = []

    async def save(self, records: Any) -> None:
        self.saved += records


class Manager:
    def __init__(self, limit: int = 100, lease: int = 30) -> None:
        self.clock = Clock()
        self.tables = 0
        self.registry = Registry(lease, OWN.__contains__)
        self.hub = Hub(self.clock, self.registry, lambda: 1.8e9, self._changed)
        self.factory = ManagerFactory(self.clock, self.hub, limit)
        self.store: Any = Store()
        self.hub.start()
        self.hub.keep_in(cast(Any, self.store))
        self.factory.begin()

    def _changed(self) -> None:
        self.tables += 1

    def line(self, host: str = "10.0.0.5") -> Any:
        return Line(self.factory, host)

    def joined(self, number: int, host: str = "10.0.0.5", **more: Any) -> Any:
        line = self.line(host)
        line.announce(number, **more)
        self.clock.advance(0.05)
        return line

    def names(self) -> Any:
        return [each.info.name for each in self.registry.active]


@pytest.fixture
def make_manager() -> Any:
    made = []

    def make(**settings: Any) -> Any:
        made.append(Manager(**settings))
        return made[-1]

    yield make
    for manager in made:
        for protocol in list(manager.factory.protocols):
            line: Any = protocol.transport
            line.end()
        stopping = manager.hub.stop()
        with pytest.raises(StopIteration):
            stopping.send(None)
        assert manager.clock.getDelayedCalls() == []


@pytest.fixture
def manager(make_manager: Any) -> Any:
    return make_manager()
