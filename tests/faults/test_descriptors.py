"""Out of descriptors: what needs one fails, alone, and everything else goes on and comes back."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from p2pd.wire import messages as m
from tests.faults.test_storage import PIECE, false_holder
from tests.rig import Daemon, Host, ManagerLink, Oracle, Raw
from tests.rig.host import Result, wait_until, write_file


@contextlib.contextmanager
def no_descriptors(daemon: Daemon, left: int = 0) -> Iterator[None]:
    """``daemon`` may open ``left`` more, whatever it closes meanwhile, and then none."""
    before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as client:
        # What earlier clients held is given back within a few steps of the reactor; each answer is one.
        client.settimeout(60)
        client.connect(str(daemon.socket_path))
        for _ in range(10):
            client.sendall(b"version\n")
            assert b"done" in client.recv(1000)
        used = {int(fd) for fd in os.listdir(f"/proc/{daemon.pid}/fd")}
        limit = [number for number in range(len(used) + left + 1) if number not in used][left]
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        try:
            yield
        finally:
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)


def flood(port: int, count: int) -> list[socket.socket]:
    """So many connections, made by the kernel whether or not the daemon takes them."""
    return [socket.create_connection(("127.0.0.1", port), 30) for _ in range(count)]


def end_of(connection: socket.socket) -> bytes:
    """Everything that comes until it ends."""
    connection.settimeout(60)
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(65536):
            data += more
    return data


def close_all(crowd: list[socket.socket]) -> None:
    while crowd:
        crowd.pop().close()


def answers(daemon: Daemon) -> bool:
    """Whether a new client gets its answer."""
    try:
        return bool(daemon.ask("status").done["role"])
    except (OSError, AssertionError):  # turned away
        return False


@pytest.mark.fault(59)
@pytest.mark.parametrize("role", ["p2ppeer", "p2pmanager"])
def test_a_daemon_out_of_descriptors_turns_newcomers_away_and_recovers(host: Host, role: str) -> None:
    manager = host.manager()
    peer = host.peer("h", manager=manager, files={"f": b"shared"})
    daemon = peer if role == "p2ppeer" else manager
    oracle = Oracle(host, [manager, peer], {"f": b"shared"}).warm()
    with contextlib.ExitStack() as stack:
        crowd: list[socket.socket] = []
        stack.callback(lambda: close_all(crowd))
        raw = stack.enter_context(Raw(peer.port))
        raw.hello()
        assert isinstance(raw.req("f", 1), m.Have)
        with no_descriptors(daemon, left=8):
            crowd += flood(daemon.port, 30)
            # Those that it has no descriptor for are closed; nobody waits, and nothing spins in between.
            for each in crowd[-10:]:
                end_of(each)
            assert daemon.process.poll() is None
            # Who was there before is served on: by what needs no descriptor.
            raw.send(m.Ping(7))
            assert raw.expect(m.Pong).number == 7
            if daemon is peer:
                assert isinstance(raw.req("f", 2), m.Have | m.NotHave)
            close_all(crowd)
            # The descriptors of those who left are enough for others, although the limit stays.
            wait_until(lambda: answers(daemon), "it answers again")
            with Raw(peer.port) as late:
                late.hello()
                assert isinstance(late.req("f"), m.Have)
            link = ManagerLink(manager.port, "a" * 32, "late", 9)
            link.close()
        have = raw.req("f", 3)
        assert isinstance(have, m.Have)
        assert raw.fetch(have, 0, 6) == b"shared"
    oracle.check()


@pytest.mark.fault(59)
def test_a_file_that_cannot_be_opened_for_want_of_descriptors_fails_alone(host: Host) -> None:
    content = os.urandom(3 * PIECE)
    manager = host.manager()
    holder = host.peer("h", manager=manager, files={"f": content, "sub/g": b"g"})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    assert holder.share is not None
    assert peer.share is not None
    oracle = Oracle(host, [holder, peer], {"f": content}).warm()
    with Raw(holder.port) as raw:
        raw.hello()
        have = raw.req("f", 1)
        assert isinstance(have, m.Have)
        with no_descriptors(holder):
            # Neither its piece list nor a grant: said so, on a conversation that goes on.
            raw.send(m.ManifestReq(have.file))
            assert "too many open files" in raw.expect(m.Gone).message
            raw.send(m.Want(have.file, 1))
            assert "too many open files" in raw.expect(m.Gone).message
            asked = peer.begin("req f")
            wait_until(lambda: re.search(r"f: .*too many open files", peer.console.text()) or
                       holder.console.text().count("asks for piece list") > 1, "it is asked")  # fmt: skip
            # A folder and a file that appear now cannot be looked at now.
            write_file(holder.share / "new/file", b"late")
            write_file(holder.share / "sub/late", b"late")
            raw.send(m.Ping(1))
            raw.expect(m.Pong)
            assert not (peer.share / "f").exists()
        # All of it comes by itself, as soon as there are descriptors.
        assert asked.result(120).done["size"] == len(content)
        assert (peer.share / "f").read_bytes() == content
        holder.wait_files(4)
        names = {item["name"] for item in holder.ask("files").items}
        assert names == {"f", "sub/g", "new/file", "sub/late"}
        again = raw.req("f", 2)
        assert isinstance(again, m.Have)
        raw.send(m.Want(again.file, 1))
        grant = raw.expect(m.Grant)
        raw.send(m.Get(grant.grant, 0, PIECE))
        assert raw.body(raw.expect(m.Data).length) == content[:PIECE]
    oracle.check()


@pytest.mark.fault(59)
def test_a_transfer_outlives_a_time_without_descriptors(host: Host) -> None:
    content = os.urandom(40 * PIECE)
    manager = host.manager()
    holder = false_holder(host, manager, content, rate=1_000_000)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    share = peer.share
    assert share is not None
    oracle = Oracle(host, [peer], {"f": content}).warm()
    with contextlib.ExitStack() as stack:
        # A client that stays: to connect takes a descriptor of the daemon, and to leave gives one back.
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(60)
        client.connect(str(peer.socket_path))
        stream = client.makefile("r", encoding="utf-8")

        def say(line: str) -> Result:
            client.sendall(line.encode() + b"\n")
            events = [json.loads(stream.readline())]
            while events[-1]["event"] not in ("done", "failed"):
                events.append(json.loads(stream.readline()))
            return Result(events)

        def row() -> dict[str, Any]:
            return next(item for item in say("transfers").items if item["name"] == "f")

        say("req f --no-wait").done  # noqa: B018
        wait_until(lambda: row()["bytes"] > len(content) // 4, "some of it is there")
        with no_descriptors(peer):
            peer.console.wait("f: .*too many open files")  # its state cannot be written
            wait_until(lambda: row()["state"] == "waiting", "the transfer rests")
            refused = say("req something-else --no-wait")
            assert refused.code == "storage"
            assert "too many open files" in refused.last["message"]
            assert 0 < row()["bytes"] < len(content)
    holder.flaws.rate = None
    wait_until((share / "f").exists, "it goes on by itself")
    assert (share / "f").read_bytes() == content
    oracle.check()


def _without(peer: Daemon, name: str) -> bool:
    return all(item["name"] != name for item in peer.ask("peers").items)


@pytest.mark.fault(59)
def test_a_manager_out_of_descriptors_keeps_its_list(host: Host) -> None:
    manager = host.manager()
    peers = [host.peer(f"p{number}", manager=manager) for number in range(3)]
    for each in peers:
        each.wait_peers(2)
    oracle = Oracle(host, [manager, *peers]).warm()
    with no_descriptors(manager):
        late = host.peer("late", manager=manager)
        assert late.status()["manager"] == "connecting"
        # A change of the list that needs no descriptor: one leaves, and all are told.
        peers[0].stop()
        for each in peers[1:]:
            # Not by number: the late one may take the descriptor that is free now.
            gone = partial(_without, each, "p0")
            wait_until(gone, "the one that left is gone from the list")
    late.wait_peers(2)
    peers[1].wait_peers(2)
    assert manager.process.poll() is None
    oracle.daemons.remove(peers[0])
    oracle.check()
