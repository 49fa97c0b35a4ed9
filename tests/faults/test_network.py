"""Faults 63 to 74 of the catalogue: sources, wires and managers that die, hang and come back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any, TypeVar

import attrs
import pytest

from p2pd.wire import messages as m
from tests.rig import Daemon, FalsePeer, Flaws, Host, Oracle, Proxy, Raw, Toxics
from tests.rig.host import PATIENCE, wait_until

PIECE = 65536
T = TypeVar("T", FalsePeer, Proxy)


@attrs.define
class Net:
    """A manager and a receiver for many cases."""

    host: Host
    manager: Daemon
    rx: Daemon
    stack: contextlib.ExitStack = attrs.Factory(contextlib.ExitStack)

    def closing(self, made: T) -> T:
        """It is closed after the test."""
        return self.stack.enter_context(contextlib.closing(made))

    def false(self, name: str, content: bytes, flaws: Flaws | None = None, peer: str = "good") -> FalsePeer:
        return self.closing(FalsePeer(self.manager.port, name, content, flaws or Flaws(), peer=peer))

    def came(self, name: str, content: bytes) -> bool:
        assert self.rx.share is not None
        return (self.rx.share / name).read_bytes() == content

    def listed(self, name: str) -> dict[str, Any]:
        """The transfer of that name; one that does nothing where there is none yet."""
        for item in self.rx.ask("transfers").items:
            if item["name"] == name and item["direction"] == "in":
                return item
        return {"state": "", "bytes": 0}

    def wait_state(self, name: str, state: str) -> dict[str, Any]:
        wait_until(lambda: self.listed(name)["state"] == state, f"{name} {state}")
        return self.listed(name)


@pytest.fixture(scope="module")
def machines() -> Iterator[Net]:
    host = Host()
    manager = host.manager()
    yield Net(host, manager, host.peer("rx", manager=manager))
    host.close()


@pytest.fixture
def net(machines: Net) -> Iterator[Net]:
    machines.rx.wait_peers(0)
    with contextlib.ExitStack() as stack:
        machines.stack = stack
        yield machines


def make(case: str) -> bytes:
    """Some content, the same whenever it is asked for."""
    return Random(case).randbytes(40 * PIECE + 77)


def asked_bytes(peer: FalsePeer) -> int:
    return sum(get.length for get in peer.gets)


@pytest.mark.fault(63)
@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_source_dies_in_the_middle_of_a_range(net: Net, then: str) -> None:
    name = f"dies by {then}"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    flaws = Flaws(after=20 * PIECE + 1000, then=then, dies=True)
    dying = net.false(name, content, flaws, "dying")
    net.rx.wait_peers(1)
    asked = net.rx.begin(f"req '{name}'")
    net.rx.wait_peers(0)
    net.wait_state(name, "waiting")
    good = net.false(name, content)
    done = asked.result(PATIENCE).done
    assert net.came(name, content)
    sources = {source["name"]: source["bytes"] for source in done["sources"]}
    assert sum(sources.values()) == len(content)
    # A reset may overtake what was sent before.
    assert (0 if then == "reset" else 16 * PIECE) <= sources.get("dying", 0) <= dying.sent
    assert asked_bytes(good) == sources["good"], "more than what was missing was fetched"
    oracle.check()


@pytest.mark.fault(63)
@pytest.mark.parametrize("reset", [False, True])
def test_every_connection_to_the_only_source_breaks(net: Net, reset: bool) -> None:
    name = f"breaks by {'reset' if reset else 'close'}"
    content = make(name)
    holder = net.host.peer(f"h{reset}", files={name: content})
    oracle = Oracle(net.host, [net.rx, holder], {name: content}).warm()
    proxy = net.closing(Proxy(holder.port, Toxics(limit=12 * PIECE, reset=reset)))
    proxy.listed(net.manager.port, "proxied")
    net.rx.wait_peers(1)
    done = net.rx.ask(f"req '{name}'").done
    assert net.came(name, content)
    assert [source["bytes"] for source in done["sources"]] == [len(content)]
    oracle.check()


@pytest.mark.fault(64)
def test_all_sources_die_and_one_returns(net: Net) -> None:
    name = "all die"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    for number in (1, 2):
        net.false(name, content, Flaws(after=5 * PIECE + 1, then="close", dies=True), f"dying {number}")
    net.rx.wait_peers(2)
    result = net.rx.ctl("req", "--json", "--timeout", "1", name)
    assert result.returncode == 5, result.stdout + result.stderr
    listed = net.wait_state(name, "waiting")
    assert listed["bytes"] >= PIECE
    good = net.false(name, content)
    # Who asks again joins it; it went on by itself before.
    net.wait_state(name, "done")
    done = net.listed(name)
    assert net.came(name, content)
    sources = {source["name"]: source["bytes"] for source in done["sources"]}
    assert sum(sources.values()) == len(content)
    assert sources["good"] == len(content) - listed["bytes"] == asked_bytes(good)
    oracle.check()


@pytest.mark.fault(64)
def test_what_was_here_before_a_restart_is_not_fetched_again(net: Net) -> None:
    name = "restarted"
    content = make(name)
    rx = net.host.peer("rx2", manager=net.manager)
    dying = net.false(name, content, Flaws(after=20 * PIECE, then="close", dies=True), "dying")
    rx.wait_peers(2)
    rx.ask(f"req --no-wait '{name}'").done  # noqa: B018
    rx.wait_peers(1)
    assert dying.sent == 20 * PIECE
    assert rx.stop() == 0
    rx.start()
    oracle = Oracle(net.host, [rx, net.rx], {name: content}).warm()
    (listed,) = [item for item in rx.ask("transfers").items if item["name"] == name]
    assert listed["state"] == "waiting"
    assert listed["bytes"] >= 16 * PIECE
    good = net.false(name, content)
    done = rx.ask(f"req '{name}'").done
    assert rx.share is not None
    assert (rx.share / name).read_bytes() == content
    assert done["sources"] == [{"name": "good", "bytes": len(content) - listed["bytes"]}]
    assert asked_bytes(good) == len(content) - listed["bytes"]
    good.close()
    oracle.check()
    assert rx.stop() == 0


@pytest.mark.fault(66)
def test_a_source_hangs_and_another_is_there(net: Net) -> None:
    name = "one hangs"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    hung = net.false(name, content, Flaws(after=3 * PIECE, then="stall"), "hung")
    net.rx.wait_peers(1)
    asked = net.rx.begin(f"req '{name}'")
    assert hung.served.wait(PATIENCE)
    net.false(name, content)
    done = asked.result(PATIENCE).done
    assert not hung.go_on.is_set()
    assert net.came(name, content)
    assert sum(source["bytes"] for source in done["sources"]) == len(content)
    hung.close()
    oracle.check()


@pytest.mark.fault(66)
def test_the_only_source_hangs_and_speaks_again(net: Net) -> None:
    name = "only one hangs"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    hung = net.false(name, content, Flaws(after=3 * PIECE, then="stall"), "hung")
    net.rx.wait_peers(1)
    asked = net.rx.begin(f"req '{name}'")
    wait_until(lambda: net.listed(name)["bytes"] == 3 * PIECE, "what it sent before counts")
    net.wait_state(name, "running")
    net.wait_state(name, "waiting")  # once it is found to hang
    hung.go_on.set()
    done = asked.result(PATIENCE).done
    assert net.came(name, content)
    assert done["sources"] == [{"name": "hung", "bytes": len(content)}]
    hung.close()
    oracle.check()


@pytest.mark.fault(66)
@pytest.mark.parametrize("others", [True, False])
def test_a_source_hangs_before_its_piece_list(net: Net, others: bool) -> None:
    name = f"no list {others}"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    hung = net.false(name, content, Flaws(no_list=True), "hung")
    net.rx.wait_peers(1)
    asked = net.rx.begin(f"req '{name}'")
    assert hung.listed.wait(PATIENCE)
    if others:
        second = net.false(name, content, Flaws(no_list=True), "hung, too")
        assert second.listed.wait(PATIENCE), "the second one was not asked"
        hung.go_on.set()
    else:
        net.false(name, content)
    done = asked.result(PATIENCE).done
    assert net.came(name, content)
    assert done["sources"] == [{"name": "hung" if others else "good", "bytes": len(content)}]
    net.stack.close()
    oracle.check()


@pytest.mark.fault(66)
def test_a_stopped_process_and_another_holder(net: Net) -> None:
    name = "stopped"
    content = make(name)
    holder = net.host.peer("stopping", manager=net.manager, files={name: content})
    net.rx.wait_peers(1)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        asked = net.rx.begin(f"req '{name}'")
        net.false(name, content)
        done = asked.result(PATIENCE).done
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    assert net.came(name, content)
    assert done["sources"] == [{"name": "good", "bytes": len(content)}]
    assert holder.stop() == 0
    oracle.check()


@pytest.mark.fault(66)
def test_a_source_sends_a_byte_a_second(net: Net) -> None:
    name = "trickle"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    slow = net.false(name, content, Flaws(rate=1), "slow")
    net.rx.wait_peers(1)
    asked = net.rx.begin(f"req '{name}'")
    assert slow.served.wait(PATIENCE)
    net.false(name, content)
    done = asked.result(PATIENCE).done
    assert net.came(name, content)
    assert done["sources"] == [{"name": "good", "bytes": len(content)}]
    slow.close()
    oracle.check()


@pytest.mark.fault(69)
def test_the_manager_dies_and_comes_back_in_mid_transfer(host: Host) -> None:
    manager = host.manager()
    rx = host.peer("rx", manager=manager)
    other = host.peer("other", manager=manager)
    content = make("manager")
    source = FalsePeer(manager.port, "file", content, Flaws(after=10 * PIECE, then="stall"), peer="source")
    with contextlib.closing(source):
        rx.wait_peers(2)
        oracle = Oracle(host, [rx, other], {"file": content}).warm()
        asked = rx.begin("req file")
        wait_until(lambda: _bytes(rx) >= 5 * PIECE, "the transfer is under way")
        manager.kill()
        wait_until(lambda: rx.status()["manager"] == "connecting", "the loss is noticed")
        source.go_on.set()
        done = asked.result(PATIENCE).done
        assert done["sources"] == [{"name": "source", "bytes": len(content)}]
        assert rx.status()["manager"] == "connecting"
    assert rx.share is not None
    assert (rx.share / "file").read_bytes() == content
    manager.args = ["--port", str(manager.port)]
    manager.start()
    oracle.daemons.append(manager)
    for peer, others in ((rx, {"other"}), (other, {"rx"})):
        wait_until(partial(_knows, peer, others), "it registers again, and knows the others again")
    oracle.relinked().check()
    assert other.ask("req file").done["sources"] == [{"name": "rx", "bytes": len(content)}]


def _knows(peer: Daemon, others: set[str]) -> bool:
    names = {item["name"] for item in peer.ask("peers").items}
    return peer.status()["manager"] == "connected" and names == others


def _bytes(daemon: Daemon) -> int:
    return sum(int(item["bytes"]) for item in daemon.ask("transfers").items)


@pytest.mark.fault(70)
def test_no_manager_at_the_start(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    content = make("alone")
    peer = host.peer("early", manager=f"127.0.0.1:{port}", files={"file": content})
    oracle = Oracle(host, [peer], {"file": content})
    peer.console.wait("the manager at .* cannot be reached")
    status = peer.status()
    assert status["manager"] == "connecting"
    assert any("cannot be reached" in problem for problem in status["problems"])
    with Raw(peer.port) as raw:
        raw.hello()
        have = raw.req("file")
        assert isinstance(have, m.Have)
        assert raw.fetch(have, 0, len(content)) == content
    manager = host.manager("--port", str(port))
    wait_until(lambda: peer.status()["manager"] == "connected", "it registers")
    assert not peer.status()["problems"]
    late = host.peer("late", manager=manager)
    assert late.ask("req file").done["sources"] == [{"name": "early", "bytes": len(content)}]
    assert late.stop() == 0
    peer.wait_peers(0)
    oracle.check()
