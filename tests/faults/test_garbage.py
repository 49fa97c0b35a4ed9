"""Faults 2, 7 and 16: what is no message, hides a line break, or comes in the wrong order; both daemons."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import ssl
from collections.abc import Iterator
from random import Random
from typing import Any

import attrs
import pytest

from p2pd.net.lines import MAX_STRIKES
from p2pd.peer.conversation import STRIKES
from p2pd.wire import messages as m
from p2pd.wire.codec import UnknownVerb
from tests.rig import Closed, Daemon, Host, ManagerLink, Oracle, Raw

FILE = "ab" * 32
PEER = "cd" * 16


@attrs.define
class Target:
    """A daemon to be spoken to, as one speaks to it."""

    daemon: Daemon
    manager: bool

    def dial(self) -> Raw:
        return Raw(self.daemon.port, table=m.MANAGER_TO_PEER if self.manager else m.PEER_TO_PEER)

    def introduced(self) -> Raw:
        raw = self.dial()
        if self.manager:
            raw.send(new_peer(id=raw.id, name=f"raw-{raw.id}"))
            raw.expect(m.Peers)
        else:
            raw.hello()
        return raw


def new_peer(**changes: Any) -> bytes:
    said = {"major": 1, "minor": 0, "id": PEER, "name": "raw", "port": 7001, "listen": ["0.0.0.0"]}
    return line("new_peer", **(said | {"advertise": "", "cookie": ""} | changes))


def line(verb: str, /, **fields: Any) -> bytes:
    return f"{verb} {json.dumps(fields)}\n".encode()


def refusal(raw: Raw) -> m.Error:
    """The one `error` line that comes before the end; what came before it was no other."""
    errors = []
    with contextlib.suppress(Closed):
        while True:
            event = raw.receive()
            if isinstance(event, m.Error):
                errors.append(event)
    assert len(errors) == 1, errors
    return errors[0]


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
        "peer": Target(machine.peer("holder", manager=manager, files={"f": b"content"}), False),
    }


@pytest.fixture(params=["peer", "manager"])
def target(request: pytest.FixtureRequest, daemons: dict[str, Target]) -> Target:
    return daemons[request.param]


@pytest.fixture
def oracle(machine: Host, daemons: dict[str, Target]) -> Oracle:
    return Oracle(machine, [each.daemon for each in daemons.values()], {"f": b"content"}).warm()


@pytest.mark.fault(2)
def test_random_bytes(target: Target, oracle: Oracle) -> None:
    for seed in range(60):
        random = Random(seed)
        with target.introduced() if seed % 2 else target.dial() as raw:
            with contextlib.suppress(Closed):
                raw.send(random.randbytes(random.randint(1, 5000)) + b"\n")
                raw.send(random.randbytes(100_000))
            assert refusal(raw).code == "protocol"
    oracle.check()


@pytest.mark.fault(2)
def test_a_client_that_speaks_tls(target: Target, oracle: Oracle) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read().replace(b"\n", b"\r")  # as most are: it does not end as a line does
    with target.dial() as raw:
        # It waits for an answer and sends nothing more, so it must not be waited for.
        raw.send(hello)
        assert "TLS" in refusal(raw).message
    with target.dial() as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw.socket)
    oracle.check()


BREAKS = ["\0", "\r", "\n", "\r\nleft_peer {}\r\n"]


@pytest.mark.fault(7)
@pytest.mark.parametrize("bad", BREAKS)
def test_a_field_that_hides_a_line_break(daemons: dict[str, Target], oracle: Oracle, bad: str) -> None:
    holder, manager = daemons["peer"], daemons["manager"]
    to_peer = {
        "hello": line("hello", major=1, minor=0, id=PEER, name=f"a{bad}b", port=7001),
        "req": line("req", req=1, name=f"a{bad}b", piece_size=0),
        "error": line("error", code="refused", message=f"a{bad}b"),
        "gone": line("gone", file=FILE, message=f"a{bad}b"),
        "unknown": line("unknown", verb=f"a{bad}b"),
    }
    if bad != "\0":
        del to_peer["req"]  # a file may be named so: JSON alone carries it (30)
    to_manager = {
        field: new_peer(**{field: [value] if field == "listen" else value})
        for field, value in (
            ("name", f"a{bad}b"), ("advertise", f"10.0.0.1{bad}"), ("listen", f"0.0.0.0{bad}"),
            ("cookie", f"a{bad}b"),
        )
    }  # fmt: skip
    watching = manager.introduced()
    with watching:
        for verb, data in to_peer.items():
            with holder.dial() if verb == "hello" else holder.introduced() as raw:
                raw.send(data)
                assert refusal(raw).message.startswith(f"{verb}: ")
        for field, data in to_manager.items():
            with manager.dial() as raw:
                raw.send(data)
                error = refusal(raw)
                assert error.message.startswith(f"new_peer: {field}: ")
                assert bad not in error.message
        # Nothing of it was passed on: the next that the others hear is of somebody else.
        # Its id is its own: the one of a test before may still be on the list, and leave it now.
        after = ManagerLink(manager.daemon.port, secrets.token_hex(16), f"after {BREAKS.index(bad)}", 7009)
        joined: list[m.PeerRow] = []
        while not joined:
            joined = watching.expect(m.Changes).joined
        assert [row.name for row in joined] == [f"after {BREAKS.index(bad)}"]
        after.close()
    oracle.check()


@pytest.mark.fault(16)
def test_unknown_verbs_are_answered_until_they_are_too_many(target: Target, oracle: Oracle) -> None:
    with target.introduced() as raw:
        raw.send(b"shuffle {}\n" * 100)
        events = []
        with contextlib.suppress(Closed):
            while True:
                events.append(raw.receive())
    answers = [event for event in events if isinstance(event, m.Unknown)]
    assert answers == [m.Unknown("shuffle")] * (MAX_STRIKES - 1 if target.manager else STRIKES)
    assert isinstance(events[-1], m.Error)
    assert "unknown verbs" in events[-1].message
    assert not any(isinstance(event, UnknownVerb) for event in events)
    oracle.check()


@pytest.mark.fault(16)
def test_a_verb_as_long_as_a_verb_may_be(target: Target, oracle: Oracle) -> None:
    verb = "a" * 31 + " " + "b" * 32
    with target.introduced() as raw:
        raw.send(line(verb))
        assert raw.expect(m.Unknown).verb == verb
        raw.send(line("a" + verb))
        assert refusal(raw).code == "protocol"
    oracle.check()


BEFORE = {
    "peer": [
        line("req", req=1, name="f", piece_size=0),
        line("want", file=FILE, count=1, place=0, once=False),
        line("get", grant=1, offset=0, length=1),
        line("ping", number=1),
        line("shuffle"),
    ],
    "manager": [line("list"), line("pong", number=1)],
}
AFTER = {
    "peer": [
        line("hello", major=1, minor=0, id=PEER, name="again", port=1),
        line("data", grant=1, offset=0, length=1) + b"x",
        line("piece list", file=FILE, size=1, piece_size=65536, length=32) + b"x" * 32,
    ],
    "manager": [new_peer()],
}


@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", ["peer", "manager"])
def test_messages_in_the_wrong_order(daemons: dict[str, Target], oracle: Oracle, kind: str) -> None:
    target = daemons[kind]
    for introduced, cases in ((False, BEFORE[kind]), (True, AFTER[kind])):
        for data in cases:
            with target.introduced() if introduced else target.dial() as raw:
                raw.send(data)
                error = refusal(raw)
                assert error.code == "protocol"
                # At once, and not for want of something else.
                assert re.search("before hello|comes first|second one|already|asked for", error.message), data
    oracle.check()
