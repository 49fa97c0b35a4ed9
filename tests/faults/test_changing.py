"""Files that change while they are served: no zeros, no mixture, and the new content is offered anew."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pd.wire import messages as m
from p2pd.wire.codec import Body
from tests.rig import Closed, Daemon, Host, Oracle, Raw
from tests.rig.behind import behind_proxy
from tests.rig.host import wait_until, write_file

SIZE = 4_000_000


def truncate(path: Path, new: bytes) -> None:
    """In place; ``new`` is the beginning of what it was."""
    os.truncate(path, len(new))


def rewrite(path: Path, new: bytes) -> None:
    """In place, and with the old times."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(new)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def replace(path: Path, new: bytes) -> None:
    """By rename."""
    write_file(path, new)


def new_id(holder: Daemon, old: str) -> str:
    """The id of what the holder offers now, once that is not the old one any more."""

    def found() -> str | None:
        items = holder.ask("files").items
        return items[0]["id"] if items and items[0]["id"] not in (None, old) else None

    return str(wait_until(found, "the new content is hashed"))


CHANGES = [
    pytest.param(truncate, lambda old: old[: SIZE // 2], marks=pytest.mark.fault(39), id="truncated"),
    pytest.param(rewrite, lambda old: os.urandom(SIZE), marks=pytest.mark.fault(40), id="rewritten"),
    pytest.param(replace, lambda old: os.urandom(SIZE), marks=pytest.mark.fault(41), id="replaced"),
]


@pytest.mark.parametrize(("change", "make"), CHANGES)
def test_a_change_is_noticed_before_the_next_request(
    host: Host, change: Callable[[Path, bytes], None], make: Callable[[bytes], bytes]
) -> None:
    old = os.urandom(SIZE)
    holder = host.peer("h", files={"f": old})
    assert holder.share is not None
    oracle = Oracle(host, [holder])
    with Raw(holder.port) as raw:
        raw.hello("raw")
        have = raw.req("f")
        assert isinstance(have, m.Have)
        raw.send(m.Want(have.file, 1))
        grant = raw.expect(m.Grant)
        raw.send(m.Get(grant.grant, 0, 65536))
        assert raw.body(raw.expect(m.Data).length) == old[:65536]
        grant = raw.expect(m.Grant)
        new = make(old)
        change(holder.share / "f", new)
        raw.send(m.Get(grant.grant, 65536, 65536))
        # Not one byte more: `gone`, and the new content, because the req stands; that first where it was
        # hashed before this `get` came.
        offered, gone = None, False
        while offered is None or not gone:
            event = raw.receive()
            assert not isinstance(event, m.Data | Body)
            gone = gone or isinstance(event, m.Gone)
            offered = event if isinstance(event, m.Have) else offered
        assert (offered.size, offered.file != have.file) == (len(new), True)
        assert raw.fetch(offered, 65536, 65536) == new[65536 : 2 * 65536]
    oracle.check()


@pytest.mark.fault(39)
def test_no_zeros_are_sent_in_place_of_what_was_cut_off(host: Host) -> None:
    old = os.urandom(16 * 2**20)
    holder = host.peer("h", files={"f": old})
    assert holder.share is not None
    oracle = Oracle(host, [holder])
    with Raw(holder.port) as raw:
        raw.hello("raw")
        have = raw.req("f")
        assert isinstance(have, m.Have)
        raw.send(m.Want(have.file, 1))
        raw.send(m.Get(raw.expect(m.Grant).grant, 0, len(old)))
        frame = raw.expect(m.Data)  # sending is under way, and held up because nobody reads
        received = raw.body(1)
        os.truncate(holder.share / "f", 0)
        event: object = None
        with contextlib.suppress(Closed):
            while not isinstance(event, m.Gone):
                event = raw.receive()
                received += event.data if isinstance(event, Body) else b""
        assert frame.offset == 0
        assert 0 < len(received) < len(old)
        assert received == old[: len(received)]
    oracle.check()


@pytest.mark.parametrize(("change", "make"), CHANGES)
def test_a_receiver_ends_with_one_content_or_none(
    host: Host, change: Callable[[Path, bytes], None], make: Callable[[bytes], bytes]
) -> None:
    old = os.urandom(SIZE)
    manager = host.manager()
    holder, proxy = behind_proxy(host, manager, "h", files={"f": old}, rate=1_000_000)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    assert holder.share is not None
    assert peer.share is not None
    old_id = holder.ask("files").items[0]["id"]
    oracle = Oracle(host, [holder, peer]).warm()
    changed, last, new = False, {}, b""
    for event in peer.events("req f --timeout 3"):
        last = event
        if event["event"] == "progress" and 0 < event["bytes"] < event["size"] // 2 and not changed:
            changed, new = True, make(old)
            change(holder.share / "f", new)
            proxy.toxics.rate = None
    assert changed
    # The only source has another content now: nothing of both may be mixed, and this one waits.
    blamed = "sent a wrong piece" in peer.console.text()
    assert (last["event"], last["code"]) == ("failed", "no-sources" if blamed else "conflict")
    assert not (peer.share / "f").exists()
    offered = new_id(holder, old_id)
    done = peer.ask("req f --output new").done
    assert done["id"] == offered
    assert (peer.share / "new").read_bytes() == new
    # The old content comes back: what was begun is finished by itself, unless bytes that were under
    # way changed in the socket's buffer (sendfile copies nothing): then this source was blamed.
    write_file(holder.share / "f", old)
    if "sent a wrong piece" in peer.console.text():
        assert change is rewrite
        assert new_id(holder, offered) == old_id
        (waiting,) = [each for each in peer.ask("transfers").items if each["state"] == "waiting"]
        peer.ask(f"cancel {waiting['id']}").done  # noqa: B018
        peer.ask("req f").done  # noqa: B018
    wait_until((peer.share / "f").exists, "the old content is there")
    assert (peer.share / "f").read_bytes() == old
    oracle.expected = {"new": new}
    oracle.check()


@pytest.mark.fault(41)
def test_the_other_holder_is_used_when_one_changes(host: Host) -> None:
    old = os.urandom(SIZE)
    manager = host.manager()
    one, proxy = behind_proxy(host, manager, "h1", files={"f": old}, rate=500_000)
    two, _ = behind_proxy(host, manager, "h2", files={"f": old}, rate=1_500_000)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(2)
    assert one.share is not None
    assert peer.share is not None
    oracle = Oracle(host, [one, two, peer]).warm()
    changed, last = False, {}
    for event in peer.events("req f"):
        last = event
        if event["event"] == "progress" and event["bytes"] > 2_000_000 and not changed:
            changed = True  # more than a second after the first offer: the offers are closed
            write_file(one.share / "f", os.urandom(SIZE))
            proxy.toxics.rate = None
    assert changed
    assert last["event"] == "done", last
    assert (peer.share / "f").read_bytes() == old
    oracle.check()
