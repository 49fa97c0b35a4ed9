"""Faults 4, 9, 17, 18 and 19: too many connections, lines and requests; both daemons."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import attrs
import pytest

from p2pd.fetch.granting import ALONE
from p2pd.net.door import MAX_PENDING, share
from p2pd.net.pace import AT_ONCE, COUNTED, PER_SECOND
from p2pd.peer.budgets import BASE, TIMES
from p2pd.wire import messages as m
from p2pd.wire.codec import encode
from tests.rig import Closed, Daemon, Host, ManagerLink, Oracle, Raw
from tests.rig.host import PATIENCE, wait_until
from tests.rig.lan import Lan

CONTENT = Random(3).randbytes(8 * 2**20)
SMALL = CONTENT[: 256 * 1024]
FILES = {"big": CONTENT, "small": SMALL, "other": SMALL[:-1]}


@attrs.define
class Target:
    """A daemon to be spoken to, as one speaks to it."""

    daemon: Daemon
    manager: bool

    def dial(self) -> Raw:
        return Raw(self.daemon.port, table=m.MANAGER_TO_PEER if self.manager else m.PEER_TO_PEER)

    def introduced(self) -> Raw:
        """RefusedError's sentence as AssertionError where it is not let in."""
        raw = self.dial()
        try:
            if self.manager:
                name = f"raw-{raw.id}"
                raw.send(m.NewPeer(*m.VERSION, raw.id, name, 7001, ["127.0.0.1"], "", ""))
                raw.expect(m.Peers)
            else:
                raw.hello()
        except BaseException:
            raw.close()
            raise
        return raw


@pytest.fixture(scope="module")
def machine() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.fixture(scope="module")
def daemons(machine: Host) -> dict[str, Target]:
    manager = machine.manager()
    return {
        "manager": Target(manager, True),
        "peer": Target(machine.peer("holder", manager=manager, files=FILES), False),
    }


@pytest.fixture(params=["peer", "manager"])
def target(request: pytest.FixtureRequest, daemons: dict[str, Target]) -> Target:
    return daemons[request.param]


@pytest.fixture
def oracle(machine: Host, daemons: dict[str, Target]) -> Oracle:
    return Oracle(machine, [each.daemon for each in daemons.values()], FILES).warm()


@pytest.mark.fault(4)
def test_connections_that_do_not_say_who_they_are(target: Target, oracle: Oracle) -> None:
    with contextlib.ExitStack() as stack:
        known = stack.enter_context(target.introduced())
        waiting = [stack.enter_context(target.dial()) for _ in range(MAX_PENDING)]
        with target.dial() as late:
            error = late.expect_error()
            assert error.code == "refused"
            assert "have not said who they are" in error.message
        known.send(m.Ping(7))
        assert known.expect(m.Pong).number == 7
        waiting[0].close()

        def let_in() -> bool:
            with contextlib.suppress(AssertionError, Closed), target.introduced():
                return True
            return False

        wait_until(let_in, "the place is given to another")
    oracle.check()


@pytest.mark.fault(9)
def test_line_feeds(target: Target, oracle: Oracle) -> None:
    with target.introduced() as raw:
        with contextlib.suppress(Closed):
            for _ in range(100):
                raw.send(b"\n" * 65536)
        assert raw.expect_error().code == "protocol"
    oracle.check()


@pytest.mark.fault(9)
@pytest.mark.parametrize("padding", [0, 60_000])
def test_more_lines_than_anybody_needs(target: Target, oracle: Oracle, padding: int) -> None:
    ping = b'ping {"number": 7, "more": "%s"}\n' % (b"x" * padding)
    pong = encode(m.Pong(7))
    cost = 1 + len(ping) // COUNTED
    count = (AT_ONCE + 2 * PER_SECOND) // cost + 1
    began = time.monotonic()  # what a connection may send grows from its beginning on
    with target.introduced() as raw:

        def send() -> None:
            with contextlib.suppress(Closed, OSError):
                raw.send(ping * count)

        threading.Thread(target=send, daemon=True).start()
        got = raw.socket.recv(len(pong), socket.MSG_WAITALL)
        target.daemon.status()
        while len(got) < count * len(pong):
            got += raw.socket.recv(2**20)
        assert got == pong * count
        # However slow the machine, so many lines were not taken in less than this.
        assert time.monotonic() - began >= ((count - 1) * cost - AT_ONCE) / PER_SECOND
    oracle.check()


@pytest.mark.fault(17)
def test_ten_times_as_many_as_are_taken(host: Host) -> None:
    limit = 6
    holder = host.peer("holder", "--max", str(limit), files=FILES)
    oracle = Oracle(host, [holder], FILES).warm()
    with contextlib.ExitStack() as stack:
        live, other = (stack.enter_context(Target(holder, False).introduced()) for _ in range(2))
        have: Any = live.req("big")
        live.send(m.Want(have.file, 1))
        grant = live.expect(m.Grant)
        live.send(m.Get(grant.grant, 0, len(CONTENT)))
        got = live.body(live.expect(m.Data).length)
        crowd = [stack.enter_context(Raw(holder.port)) for _ in range(10 * limit)]
        inside = []
        for each in crowd:
            with contextlib.suppress(AssertionError, Closed):
                each.hello()
                inside.append(each)
            if each not in inside:
                each.close()
        assert len(inside) == limit - 2
        assert isinstance(other.req("small"), m.Have)
        while len(got) < len(CONTENT):
            got += live.body(live.expect(m.Data).length)
        assert got == CONTENT
        with Raw(holder.port) as late:
            error = late.expect_error()
            assert (error.code, error.message) == ("refused", f"this peer is full ({limit} connections)")
    oracle.check()


@pytest.mark.fault(17)
def test_a_full_manager_goes_on_with_those_it_has(host: Host) -> None:
    limit = 6
    manager = host.manager("--max", str(limit))
    peer = host.peer("one", manager=manager, files={"small": SMALL})
    receiver = host.peer("two", manager=manager)
    receiver.wait_peers(1)
    oracle = Oracle(host, [manager, peer, receiver], FILES).warm()
    links = [ManagerLink(manager.port, f"{n:032x}", f"link {n}", 7001) for n in range(limit - 2)]
    refused = 0
    for _ in range(10 * limit):
        with Raw(manager.port, table=m.MANAGER_TO_PEER) as raw, contextlib.suppress(Closed):
            assert raw.receive() == m.Error("refused", f"the manager is full ({limit} connections)")
            refused += 1
    assert refused
    links[0].close()
    receiver.wait_peers(limit - 2)
    for link in links:
        link.close()
    receiver.wait_peers(1)
    receiver.ask("req small").done  # noqa: B018
    oracle.check()


@pytest.mark.fault(18)
@pytest.mark.needs("root", "ip")
@pytest.mark.parametrize("kind", ["peer", "manager"])
def test_one_address_does_not_get_all_places(host: Host, kind: str) -> None:
    limit = 8
    lan = Lan(3)
    host.on_close(lan.close)
    manager = host.manager(
        "--host", "0.0.0.0", "--port", "12000", "--max", str(limit), prefix=lan.on(0)
    )  # fmt: skip
    where = f"{lan.addresses[0]}:12000"
    holder = host.peer(
        "holder", "--host", "0.0.0.0", "--max", str(limit), manager=where, prefix=lan.on(0), files=FILES
    )
    oracle = Oracle(host, [manager, holder], FILES).warm()
    port = holder.port if kind == "peer" else manager.port
    crowd = subprocess.Popen(
        [*lan.on(1), sys.executable, "-m", "tests.rig.crowd", lan.addresses[0], str(port), "40", kind],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    host.on_close(crowd.kill)
    assert crowd.stdin is not None
    assert crowd.stdout is not None
    said = json.loads(crowd.stdout.readline())
    # The manager has the holder besides, from its own machine.
    assert said["inside"] == share(limit)
    assert f"full for {lan.addresses[1]}" in said["refused"]
    receiver = host.peer("rx", "--host", "0.0.0.0", manager=where, prefix=lan.on(2))
    wait_until(lambda: receiver.status()["manager"] == "connected", "the other address is let in")
    receiver.ask("req small").done  # noqa: B018
    assert (host.folder / "rx/small").read_bytes() == SMALL
    crowd.stdin.close()
    assert crowd.wait(PATIENCE) == 0
    oracle.check()


@pytest.mark.fault(19)
def test_the_same_range_for_ever(daemons: dict[str, Target], oracle: Oracle) -> None:
    holder = daemons["peer"]
    budget = BASE + TIMES * len(SMALL)
    with holder.introduced() as raw:
        have: Any = raw.req("small")
        raw.send(m.Want(have.file, 1))
        sent = 0
        for number in range(10_000):
            grant = next_grant(raw, number)
            if grant is None:
                break
            raw.send(m.Get(grant, 0, len(SMALL)))
            got = 0
            while got < len(SMALL):
                got += len(raw.body(raw.expect(m.Data).length))
            sent += got
        assert budget <= sent <= budget + ALONE * len(SMALL) + budget // 10
        identity = raw.id
        # Other files are still his,
        assert isinstance(raw.req("other", 2), m.Have)
        assert raw.fetch(raw.req("other", 3), 0, 1000) == SMALL[:1000]  # type: ignore[arg-type]
    holder.daemon.console.wait("was sent small too often and has to wait")
    # this one not, though he comes back;
    with holder.dial() as raw:
        raw.id = identity
        raw.hello()
        have = raw.req("small")
        raw.send(m.Want(have.file, 4))
        assert next_grant(raw, 1) is None
    # others have it.
    with holder.introduced() as raw:
        assert raw.fetch(raw.req("small"), 0, len(SMALL)) == SMALL  # type: ignore[arg-type]
    oracle.check()


def next_grant(raw: Raw, number: int) -> int | None:
    """The grant that comes now; None where none does."""
    grant = None
    for each in (2 * number, 2 * number + 1):
        # Whatever was to be said before is said before the second answer.
        raw.send(m.Ping(each))
        while not isinstance(event := raw.receive(), m.Pong):
            if isinstance(event, m.Grant):
                grant = event.grant
    return grant
