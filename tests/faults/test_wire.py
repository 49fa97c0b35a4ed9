"""Faults 1 to 20 of the catalogue: what comes over a connection that no peer would say."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from random import Random

import pytest

from p2pd.fetch.transfer import GRANTS
from p2pd.wire import messages as m
from tests.rig import Closed, Daemon, FalsePeer, Flaws, Host, Oracle, Raw
from tests.rig.host import PATIENCE
from tests.rig.oracle import ANSWER

PIECE = 65536
Made = Callable[[FalsePeer], FalsePeer]
CONTENT = Random(1).randbytes(16 * 2**20)


def narrow(daemon: Daemon, name: str = "raw") -> Raw:
    """A connection that takes little before it is full, introduced."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", daemon.port))
    raw = Raw(0, sock=sock)
    raw.hello(name)
    return raw


def serves_others(daemon: Daemon) -> None:
    """While somebody else misuses it. (Its own `req` would wait 5 s for him, too.)"""
    with Raw(daemon.port) as raw:
        raw.socket.settimeout(ANSWER)
        raw.hello()
        assert raw.fetch(offered(raw, "big"), 0, len(CONTENT)) == CONTENT
    daemon.status()


def offered(raw: Raw, name: str) -> m.Have:
    have = raw.req(name)
    assert isinstance(have, m.Have)
    return have


FILES = {"big": CONTENT, "empty": b"", "odd": CONTENT[: PIECE + 1]}


@pytest.fixture(scope="module")
def machine() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.fixture(scope="module")
def holder(machine: Host) -> Daemon:
    """A peer with files, and no manager; what one test does to it, the next one sees."""
    return machine.peer("holder", files=FILES)


@pytest.fixture
def oracle(machine: Host, holder: Daemon) -> Oracle:
    return Oracle(machine, [holder], FILES).warm()


@pytest.mark.fault(1)
@pytest.mark.parametrize("introduced", [False, True])
@pytest.mark.parametrize("ended", [False, True])
def test_a_line_that_is_too_long(holder: Daemon, oracle: Oracle, introduced: bool, ended: bool) -> None:
    with Raw(holder.port) as raw:
        if introduced:
            raw.hello()
        if ended:
            raw.send(b"ping {" + b" " * m.MAX_LINE + b'"number": 1}\n')
        else:
            # All of it is taken and dropped, or the end comes first.
            with contextlib.suppress(Closed):
                raw.send(b"x" * 100 * 2**20)
        error = raw.expect_error()
        assert error.code == "protocol"
        assert "longer than 65536 bytes" in error.message
    oracle.check()


@pytest.mark.fault(3)
def test_bytes_dripped_before_hello(holder: Daemon, oracle: Oracle) -> None:
    line = iter(b"hello {" + b" " * 60000)
    deadline = time.monotonic() + PATIENCE
    with Raw(holder.port) as raw:
        # A byte is sent every now and then: while nothing comes, this waits for what may come.
        raw.socket.settimeout(0.3)
        error = None
        with contextlib.suppress(Closed):
            while time.monotonic() < deadline:
                raw.send(bytes([next(line)]))
                with contextlib.suppress(TimeoutError):
                    event = raw.receive()
                    error = event if isinstance(event, m.Error) else None
            pytest.fail("it may drip for ever")
        assert error is not None
        assert "no hello within 10 s" in error.message
    oracle.check()


@pytest.mark.fault(6)
def test_half_closed_after_get(holder: Daemon, oracle: Oracle) -> None:
    with narrow(holder) as raw:
        have = offered(raw, "big")
        raw.send(m.Want(have.file, 1))
        grant = raw.expect(m.Grant)
        raw.send(m.Get(grant.grant, 0, len(CONTENT)))
        raw.socket.shutdown(socket.SHUT_WR)
        got = b""
        while len(got) < len(CONTENT):
            got += raw.body(raw.expect(m.Data).length)
        assert got == CONTENT
        raw.expect_end()
    oracle.check()


@pytest.mark.fault(6)
def test_half_closed_after_everything_at_once(holder: Daemon, oracle: Oracle) -> None:
    count = 300
    with Raw(holder.port) as raw:
        raw.send(m.Hello(*m.VERSION, raw.id, "raw", 0))
        for number in range(count):
            raw.send(m.Req(number, "odd" if number % 2 else f"not here {number}", 0))
        raw.socket.shutdown(socket.SHUT_WR)
        answered = set()
        with contextlib.suppress(Closed):
            while True:
                event = raw.receive()
                if isinstance(event, m.Have | m.NotHave):
                    assert isinstance(event, m.Have) == bool(event.req % 2)
                    answered.add(event.req)
        assert answered == set(range(count))
    oracle.check()


@pytest.mark.fault(10)
def test_requests_are_all_answered_however_many_come_at_once(holder: Daemon, oracle: Oracle) -> None:
    count = 10_000
    with Raw(holder.port) as raw:
        raw.hello()

        def send() -> None:
            with contextlib.suppress(Closed, OSError):
                for start in range(0, count, 500):
                    raw.send(b"".join(map(_req, range(start, start + 500))))

        threading.Thread(target=send, daemon=True).start()
        assert {raw.expect(m.NotHave).req for _ in range(count)} == set(range(count))
    oracle.check()


@pytest.mark.fault(10)
def test_a_million_requests_of_one_who_does_not_read(holder: Daemon, oracle: Oracle) -> None:
    with narrow(holder) as raw:
        raw.socket.settimeout(2)
        with pytest.raises(TimeoutError):
            flood(raw)
        # It is not read any more, and others do not notice.
        serves_others(holder)
    oracle.check()


def flood(raw: Raw) -> None:
    """A million requests; TimeoutError where a thousand of them are not taken in time."""
    for start in range(0, 1_000_000, 1000):
        raw.send(b"".join(map(_req, range(start, start + 1000))))


def _req(number: int) -> bytes:
    return b'req {"req": %d, "name": "not here", "piece_size": 0}\n' % number


@pytest.mark.fault(11)
def test_clients_that_never_read(holder: Daemon, oracle: Oracle) -> None:
    for_data, for_answers = narrow(holder), narrow(holder)
    with for_data, for_answers:
        have = offered(for_data, "big")
        for_data.send(m.Want(have.file, 4))
        # Who else asks for it is of tests before: it may not be alone.
        for grant in [for_data.expect(m.Grant) for _ in range(2)]:
            for_data.send(m.Get(grant.grant, grant.first * have.piece_size, min(grant.bytes, len(CONTENT))))
        for_answers.socket.settimeout(2)
        with pytest.raises(TimeoutError):
            flood(for_answers)
        serves_others(holder)
        for raw in (for_data, for_answers):
            reset = select.poll()
            reset.register(raw.socket, 0)  # tells only of the end
            assert reset.poll(45_000), "the connection is kept though nothing is taken"
    holder.console.wait("takes nothing any more", 2)
    oracle.check()


@pytest.fixture(scope="module")
def net() -> Iterator[tuple[Host, Daemon, Daemon]]:
    """A manager and a receiver for many cases, each with a file and sources of its own."""
    host = Host()
    manager = host.manager()
    yield host, manager, host.peer("rx", manager=manager)
    host.close()


@pytest.fixture
def made() -> Iterator[Made]:
    """Says of a false peer that it is to be closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda peer: stack.enter_context(contextlib.closing(peer))


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("case", "flaws"),
    [
        ("longer", Flaws(frame_longer=100)),
        ("longer than asked for", Flaws(frame_longer=512 * 1024)),
        ("shorter", Flaws(frame_longer=-100)),
        ("by one byte elsewhere", Flaws(frame_shift=1)),
        ("by a piece elsewhere", Flaws(frame_shift=PIECE)),
    ],
)
def test_frames_that_are_not_what_was_asked_for(
    net: tuple[Host, Daemon, Daemon], made: Made, case: str, flaws: Flaws
) -> None:
    host, manager, rx = net
    content = Random(case).randbytes(8 * PIECE + 77)
    rx.wait_peers(0)
    oracle = Oracle(host, [rx], {case: content}).warm()
    bad = made(FalsePeer(manager.port, case, content, flaws, peer=f"bad {case}"))
    rx.wait_peers(1)
    asked = rx.begin(f"req '{case}'")
    rx.console.wait(f"bad {case} (is dropped|sent a wrong piece)")
    made(FalsePeer(manager.port, case, content, Flaws(), peer="good"))
    done = asked.result(PATIENCE).done
    assert rx.share is not None
    assert (rx.share / case).read_bytes() == content
    assert sum(source["bytes"] for source in done["sources"]) == len(content)
    assert len(bad.gets) <= GRANTS, "no more than was asked of it at once"
    oracle.check()


@pytest.mark.fault(13)
@pytest.mark.parametrize("number", ["-1", "-0", str(2**63), "9" * 5000, "1_0", "１", '" 7"', "1.0", "true"])
def test_numbers_that_are_none(holder: Daemon, oracle: Oracle, number: str) -> None:
    with Raw(holder.port) as raw:
        raw.hello()
        raw.send(f'get {{"grant": 1, "offset": {number}, "length": 5}}\n'.encode())
        assert raw.expect_error().code == "protocol"
    oracle.check()


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("name", "offset", "length"),
    [
        ("odd", PIECE, 2),
        ("odd", PIECE + 1, 1),
        ("odd", 0, PIECE + 2),
        ("odd", 2**63 - 1, 1),
        ("odd", 1, 2**63 - 1),
        ("empty", 0, 1),
        ("big", 0, len(CONTENT) + 1),
    ],
)
def test_a_range_beyond_the_end(holder: Daemon, oracle: Oracle, name: str, offset: int, length: int) -> None:
    with Raw(holder.port) as raw:
        raw.hello()
        have = offered(raw, name)
        raw.send(m.Want(have.file, 1))
        raw.send(m.Get(raw.expect(m.Grant).grant, offset, length))
        events = []
        with contextlib.suppress(Closed):
            while True:
                events.append(raw.receive())
        assert [type(event) for event in events] == [m.Error], events
        assert isinstance(events[0], m.Error)
        assert events[0].message.startswith("get: ")
    oracle.check()


def test_messages_wait_for_the_end_of_a_frame(holder: Daemon, oracle: Oracle) -> None:
    """Also the last one: an `error` line in a body would be taken for a damaged piece."""
    with narrow(holder, "frames") as raw:
        have = offered(raw, "big")
        raw.send(m.Want(have.file, 1))
        raw.send(m.Get(raw.expect(m.Grant).grant, 0, len(CONTENT)))
        raw.expect(m.Data)  # a frame is under way, and the connection is full
        for number in range(20):
            raw.send(m.Ping(number))
        raw.send(m.Req(5, "not here", 0))
        raw.send(b"this is no message\n")
        holder.console.wait("frames is dropped")
        got = raw.body(PIECE)
        last = None
        with contextlib.suppress(Closed):
            while True:
                last = raw.receive()
                if isinstance(last, m.Data):
                    got += raw.body(last.length)
        assert isinstance(last, m.Error)
        assert got == CONTENT[: len(got)]
    oracle.check()
