import errno
import json
from typing import Any, cast

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    getConnectError,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport as UntypedTransport
from twisted.python.failure import Failure

from p2pd.model import PeerId, PeerInfo
from p2pd.peer.uplink import CONNECT_WITHIN, FAREWELL, LONGEST_LEASE, WELCOME_WITHIN, Uplink
from p2pd.wire.messages import NewPeer

LEASE = 30


StringTransport: Any = UntypedTransport


class Line(StringTransport):  # type: ignore[misc]
    """The connection, seen from the manager."""

    def __init__(self, factory: Any, host: str) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, 12000))
        self.write_closed = False
        self.protocol = factory.buildProtocol(self.peerAddr)
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
        self.end()

    def end(self, why: Any = None) -> None:
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(why or ConnectionDone()))

    def say(self, verb: str, **fields: Any) -> None:
        self.protocol.dataReceived(f"{verb} {json.dumps(fields)}\n".encode())

    def welcome(self, **fields: Any) -> None:
        self.say("welcome", **({"cookie": "c1", "lease": LEASE, "host": "10.0.0.5", "problem": ""} | fields))

    def peers(self, *rows: Any, serial: int = 1, page: int = 0, last: bool = True) -> None:
        self.say("peers", serial=serial, page=page, last=last, rows=list(rows))

    def heard(self) -> Any:
        lines = self.value().decode().split("\n")
        self.clear()
        found = []
        for line in lines[:-1]:
            verb, _, fields = line.partition(" {")
            found.append((verb, json.loads("{" + fields)))
        return found


class Endpoint:
    def __init__(self) -> None:
        self.attempts: list[Any] = []

    def connect(self, factory: Any) -> Any:
        self.cancelled = False
        waiting: Deferred[Any] = Deferred(lambda _: setattr(self, "cancelled", True))
        self.attempts.append((waiting, factory))
        return waiting


class Rig:
    def __init__(self) -> None:
        self.clock = Clock()
        self.endpoint: Any = Endpoint()
        self.changes = 0
        self.cookies = ["c0"]
        self.uplink = Uplink(
            self.clock,
            "10.0.0.1",
            12000,
            lambda: NewPeer(1, 0, f"{1:032x}", "me", 7001, ["0.0.0.0"], "", ""),
            self._changed,
            load_cookie=lambda: self.cookies[-1],
            save_cookie=self.cookies.append,
            endpoint=cast(Any, self.endpoint),
            jitter=lambda: 1.0,
        )
        self.uplink.start()

    def _changed(self) -> None:
        self.changes += 1

    def accept(self, host: str = "10.0.0.1") -> Any:
        waiting, factory = self.endpoint.attempts.pop()
        line = Line(factory, host)
        waiting.callback(line.protocol)
        return line

    def refuse(self) -> None:
        self.endpoint.attempts.pop()[0].errback(ConnectionRefusedError())

    def listed(self, *rows: Any) -> Any:
        line = self.accept()
        line.welcome()
        line.peers(*rows)
        line.clear()
        return line

    def names(self) -> Any:
        return sorted(info.name for info in self.uplink.peers.values())

    def pause(self) -> Any:
        """Seconds until the next attempt."""
        waited = 0.0
        while not self.endpoint.attempts:
            waited += 0.05
            self.clock.advance(0.05)
            assert waited < 60
        return waited


def row(number: int, name: str | None = None, host: str = "10.0.0.9", **more: Any) -> Any:
    return {"id": f"{number:032x}", "name": name or f"p{number}", "host": host, "port": 7000 + number} | more


@pytest.fixture
def rig() -> Any:
    made = Rig()
    yield made
    stopping = Deferred.fromCoroutine(made.uplink.stop())
    made.clock.advance(FAREWELL)
    made.clock.advance(5)
    assert stopping.called
    assert made.clock.getDelayedCalls() == []


def test_announces_and_takes_the_list(rig: Any) -> None:
    assert rig.uplink.state == "connecting"
    assert not rig.uplink.had_list
    line = rig.accept()
    ((verb, fields),) = line.heard()
    assert verb == "new_peer"
    assert (fields["name"], fields["cookie"]) == ("me", "c0")
    line.welcome()
    assert rig.cookies == ["c0", "c1"]
    listed = rig.uplink.when_listed()
    assert not listed.called
    line.peers(row(2), row(1, "me"), serial=4, last=False)
    line.peers(row(3, host=""), serial=4, page=1)
    assert listed.called
    assert rig.uplink.state == "connected"
    assert rig.uplink.known_as == "10.0.0.5"
    assert rig.uplink.peers[PeerId(f"{3:032x}")] == PeerInfo(PeerId(f"{3:032x}"), "p3", "10.0.0.1", 7003)
    assert rig.names() == ["p2", "p3"]
    assert rig.uplink.problems == []
    assert rig.uplink.when_listed().called
    assert rig.changes == 1


@pytest.mark.parametrize(
    ("dialled", "host"), [("::1", "127.0.0.1"), ("::ffff:10.0.0.7", "10.0.0.7"), ("127.0.0.5", "127.0.0.1")]
)
def test_rows_without_a_host_are_where_the_manager_is(rig: Any, dialled: str, host: str) -> None:
    line = rig.accept(dialled)
    line.welcome()
    line.peers(row(2, host=""))
    assert [info.host for info in rig.uplink.peers.values()] == [host]


def test_changes(rig: Any) -> None:
    line = rig.listed(row(2), row(3))
    line.say("changes", serial=2, joined=[row(4), row(3, "renamed")], left=[f"{2:032x}", f"{3:032x}"])
    line.say("changes", serial=3, joined=[row(1, "me")], left=[])
    line.say("changes", serial=4, joined=[], left=[])
    assert rig.names() == ["p4", "renamed"]
    assert line.heard() == []


def test_a_gap_asks_once_for_the_whole_list(rig: Any) -> None:
    line = rig.listed(row(2))
    line.say("changes", serial=3, joined=[row(3)], left=[])
    line.say("changes", serial=4, joined=[row(4)], left=[])
    assert line.heard() == [("list", {})]
    assert rig.names() == ["p2"]
    line.peers(row(4), row(5), serial=4)
    line.say("changes", serial=5, joined=[row(6)], left=[])
    assert rig.names() == ["p4", "p5", "p6"]
    line.say("changes", serial=9, joined=[], left=[])
    assert line.heard() == [("list", {})]


BAD = [
    ("peers", {"serial": 1, "page": 0, "last": True, "rows": [row(2, host="0.0.0.0")]}),
    ("peers", {"serial": 1, "page": 0, "last": True, "rows": [row(2, host="lab")]}),
    ("peers", {"serial": 1, "page": 0, "last": True, "rows": [row(2, host="::ffff:10.0.0.1")]}),
    ("peers", {"serial": 1, "page": 0, "last": True, "rows": [row(2, host="239.0.0.1")]}),
    ("peers", {"serial": 1, "page": 0, "last": True, "rows": [row(2, name="a\x1bb")]}),
    ("peers", {"serial": 1, "page": 0, "last": True, "rows": [row(2, port=0)]}),
    ("peers", {"serial": 1, "page": 0, "last": True, "rows": [row(2, id="x")]}),
    ("peers", {"serial": 1, "page": 0, "last": True, "rows": [row(2), row(2)]}),
    ("peers", {"serial": 1, "page": 1, "last": True, "rows": []}),
    ("changes", {"serial": 2, "joined": [row(2, host="::")], "left": []}),
    ("changes", {"serial": 2, "joined": [], "left": ["x"]}),
    ("changes", {"serial": 2, "joined": [], "left": [7]}),
    ("welcome", {"cookie": "c", "lease": 1, "host": "", "problem": ""}),
    ("new_peers", None),
]


@pytest.mark.fault(7, 29, 36)
@pytest.mark.parametrize(("verb", "fields"), BAD)
def test_a_lying_manager_is_dropped_and_the_list_kept(rig: Any, verb: str, fields: Any) -> None:
    line = rig.listed(row(9))
    if fields is None:
        line.protocol.dataReceived(b"\n")
    else:
        line.say(verb, **fields)
    assert line.heard()[-1][0] == "error"
    assert line.write_closed
    assert rig.names() == ["p9"]
    assert rig.uplink.state == "connecting"
    assert "was dropped" in rig.uplink.problems[0]


def test_too_many_pages_are_too_much(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pd.peer.peerlist.MAX_PEERS", 5)
    line = rig.accept()
    line.welcome()
    line.peers(*map(row, range(2, 6)), last=False)
    line.peers(*map(row, range(6, 10)), page=1, last=False)
    assert line.heard()[-1][0] == "error"


@pytest.mark.fault(70)
def test_retries_with_growing_pauses(rig: Any) -> None:
    pauses = []
    for _ in range(9):
        rig.refuse()
        pauses.append(rig.pause())
    assert pauses[0] <= 0.5
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(10, abs=0.1)
    assert "cannot be reached" in rig.uplink.problems[0]
    rig.listed()
    assert rig.uplink.problems == []


@pytest.mark.fault(70)
def test_why_a_connection_did_not_come_about_is_said_in_words(rig: Any) -> None:
    # As Twisted says it of one that is lost before it is one.
    rig.endpoint.attempts.pop()[0].errback(ConnectError(string=Failure(ConnectionLost())))
    (problem,) = rig.uplink.problems
    assert "cannot be reached: Connection to the other side was lost" in problem
    assert "Failure" not in problem


@pytest.mark.fault(70)
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (getConnectError((errno.EHOSTUNREACH, "No route to host")), "No route to host"),
        (getConnectError(OSError(errno.EHOSTUNREACH, "No route to host")), "No route to host"),
        (ConnectionRefusedError(), "Connection was refused"),
        (OSError("odd"), "odd"),
    ],
)
def test_each_reason_has_words_and_is_followed_by_another_try(rig: Any, error: Exception, words: str) -> None:
    rig.endpoint.attempts.pop()[0].errback(error)
    assert words in rig.uplink.problems[0]
    assert rig.pause() <= 0.5


@pytest.mark.fault(69)
def test_a_lost_link_is_retried_at_once_and_the_list_kept(rig: Any) -> None:
    for _ in range(3):
        line = rig.listed(row(2))
        line.end()
        assert rig.uplink.state == "connecting"
        assert rig.names() == ["p2"]
        assert rig.uplink.had_list
        assert rig.pause() <= 0.5
    line = rig.accept()
    assert line.heard()[0][1]["cookie"] == "c1"


def test_a_refusal_is_a_problem_and_tried_again(rig: Any) -> None:
    pauses = []
    for _ in range(8):
        line = rig.accept()
        line.say("error", code="refused", message="name me is taken\x1b[31m")
        assert line.write_closed
        assert rig.uplink.problems == ["the manager at 10.0.0.1:12000 refused: name me is taken\\x1b[31m"]
        line.end()
        pauses.append(rig.pause())
    assert pauses[0] <= 0.5
    assert pauses[-1] == pytest.approx(10, abs=0.1)
    rig.listed()
    assert rig.uplink.problems == []


def test_the_managers_problem_is_told(rig: Any) -> None:
    line = rig.accept()
    line.welcome(problem="loopback only", host="")
    line.peers()
    assert rig.uplink.problems == ["loopback only"]
    assert rig.uplink.known_as == ""


@pytest.mark.fault(5)
def test_a_silent_manager_is_taken_for_dead(rig: Any) -> None:
    line = rig.listed()
    for _ in range(5):
        rig.clock.advance(LEASE / 3)
        assert [verb for verb, _ in line.heard()] == ["ping"]
        line.say("pong", number=1)
    for _ in range(3):
        assert rig.uplink.state == "connected"
        rig.clock.advance(LEASE / 3)
    assert rig.uplink.state == "connecting"
    assert line.disconnected
    assert rig.pause() <= 0.5


@pytest.mark.fault(5, 20)
@pytest.mark.parametrize("lease", [1, 30, 300, 301, 86400])
def test_however_long_a_lease_is_a_silent_manager_is_noticed(rig: Any, lease: int) -> None:
    line = rig.accept()
    line.welcome(lease=lease)
    line.peers()
    wanted = min(lease, LONGEST_LEASE)
    line.heard()
    rig.clock.advance(wanted / 3 + 0.01)
    assert [verb for verb, _ in line.heard()] == ["ping"]
    rig.clock.advance(wanted * 2 / 3)
    assert line.disconnected
    assert rig.uplink.state == "connecting"


def test_answers_pings(rig: Any) -> None:
    line = rig.listed()
    line.say("ping", number=7)
    assert line.heard() == [("pong", {"number": 7})]


@pytest.mark.fault(3)
def test_a_manager_that_drips_is_dropped(rig: Any) -> None:
    line = rig.accept()
    for _ in range(int(WELCOME_WITHIN) - 1):
        rig.clock.advance(1)
        line.say("ping", number=1)
    assert not line.disconnected
    rig.clock.advance(1)
    assert line.disconnected


def test_a_manager_that_stops_says_so(rig: Any) -> None:
    line = rig.listed()
    line.say("left_peer")
    assert line.write_closed
    assert rig.uplink.state == "connecting"
    assert rig.pause() <= 0.5
    line.end()


def test_stop_says_goodbye_and_waits_for_the_close() -> None:
    rig = Rig()
    line = rig.listed()
    stopping = Deferred.fromCoroutine(rig.uplink.stop())
    assert line.heard() == [("left_peer", {})]
    assert not stopping.called
    line.end()
    assert stopping.called
    assert rig.clock.getDelayedCalls() == []


def test_stop_waits_no_longer_than_it_should() -> None:
    rig = Rig()
    line = rig.listed()
    stopping = Deferred.fromCoroutine(rig.uplink.stop())
    rig.clock.advance(FAREWELL)
    assert stopping.called
    assert line.disconnected
    assert rig.clock.getDelayedCalls() == []


def test_stop_while_connecting() -> None:
    rig = Rig()
    listed = rig.uplink.when_listed()
    Deferred.fromCoroutine(rig.uplink.stop())
    assert rig.endpoint.cancelled
    given_up: Any = listed.result
    assert isinstance(given_up.value, CancelledError)
    listed.addErrback(lambda _failure: None)
    assert rig.clock.getDelayedCalls() == []


def test_who_waits_for_the_list_may_give_up(rig: Any) -> None:
    listed = rig.uplink.when_listed()
    listed.addErrback(lambda _failure: None)
    listed.cancel()
    rig.listed()


def test_timeouts_fit_each_other() -> None:
    assert CONNECT_WITHIN < WELCOME_WITHIN
