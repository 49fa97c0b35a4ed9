"""Fault 47: a good source behind a bad link. Its ban ends, and the transfer goes on by itself."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from tests.rig import Daemon, Host, Oracle, Proxy, Toxics
from tests.rig.host import PATIENCE

PIECE = 65536
CONTENT = Random("a bad link").randbytes(12 * PIECE + 5)


def first_piece_flipped(times: int) -> Callable[[int, bytes], bytes]:
    """Changes one bit of piece 0, each of the first ``times`` times that it passes."""
    left = times

    def change(offset: int, data: bytes) -> bytes:
        nonlocal left
        at = data.find(b'"offset": 0, "length"')
        if not left or at < 0 or at + 2000 >= len(data):
            return data
        left -= 1
        at += 2000
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return change


def behind_bad_link(host: Host, wrong: int, *options: str) -> tuple[Daemon, Daemon, Proxy]:
    """A manager's two peers: a holder whose piece 0 is changed on the way at first, and a receiver."""
    manager = host.manager()
    holder = host.peer("holder", files={"f": CONTENT})
    proxy = Proxy(holder.port, Toxics(change=first_piece_flipped(wrong)))
    host.on_close(proxy.close)
    proxy.listed(manager.port, "holder")
    rx = host.peer("rx", *options, manager=manager)
    rx.wait_peers(1)
    return holder, rx, proxy


def between(rx: Daemon, first: str, last: str) -> list[str]:
    """The console's lines on traffic after the line with ``first``, up to the next one with ``last``."""
    lines = rx.console.lines
    start = next(i for i, line in enumerate(lines) if first in line) + 1
    end = next(i for i, line in enumerate(lines) if last in line and i >= start)
    return [line for line in lines[start:end] if "asked for" in line or "received" in line]


@pytest.mark.fault(47)
def test_after_the_ban_the_source_is_used_again_with_care(host: Host) -> None:
    _, rx, _ = behind_bad_link(host, 1, "--ban", "2")
    oracle = Oracle(host, [rx], {"f": CONTENT})
    done = rx.ask("req --timeout 60 f", 60).done
    rx.console.wait("holder sent a wrong piece .* of f: not used for it for 2 s")
    rx.console.wait("holder may be used for f again, with care")
    rx.console.wait("received piece 0")
    assert rx.share is not None
    assert (rx.share / "f").read_bytes() == CONTENT
    assert done["sources"] == [{"name": "holder", "bytes": len(CONTENT)}]
    (listed,) = rx.ask("transfers").items
    assert listed["banned"] == []
    traffic = between(rx, "sent a wrong piece", "may be used for f again")
    assert traffic == [], "it was used during its ban"
    careful = between(rx, "may be used for f again", "received piece")
    assert len(careful) == 1, "more than one piece was asked for before one was right"
    assert "asked for piece " in careful[0]
    oracle.check()


@pytest.mark.fault(47)
def test_each_ban_is_longer_than_the_one_before(host: Host) -> None:
    _, rx, _ = behind_bad_link(host, 3, "--ban", "1")
    oracle = Oracle(host, [rx], {"f": CONTENT})
    asked = rx.begin("req --timeout 60 f")
    for seconds in (1, 2, 4):
        rx.console.wait(f"holder sent a wrong piece .* of f: not used for it for {seconds} s")
    asked.result(PATIENCE).done  # noqa: B018
    assert rx.share is not None
    assert (rx.share / "f").read_bytes() == CONTENT
    oracle.check()


@pytest.mark.fault(47)
def test_a_transfer_whose_only_source_is_banned_says_so_and_another_goes_on(host: Host) -> None:
    holder, rx, _ = behind_bad_link(host, 1)
    assert holder.share is not None
    (holder.share / "g").write_bytes(CONTENT[::-1])
    holder.wait_files(2)
    oracle = Oracle(host, [rx], {"f": CONTENT, "g": CONTENT[::-1]})
    first = rx.begin("req --timeout 2 f")
    rx.console.wait("holder sent a wrong piece .* of f: not used for it for 60 s")
    rx.ask("req g").done  # noqa: B018
    failed = first.result(PATIENCE)
    assert failed.code == "no-sources"
    assert "holder sent wrong data and is used again in" in failed.last["message"]
    (waiting,) = [item for item in rx.ask("transfers").items if item["name"] == "f"]
    assert waiting["state"] == "waiting"
    assert waiting["message"].startswith("holder sent wrong data and is used again in ")
    (banned,) = waiting["banned"]
    assert banned["name"] == "holder"
    assert 0 < banned["seconds"] <= 60
    assert "holder sent wrong data" in rx.ctl("transfers").stdout
    rx.ask(f"cancel {waiting['id']}").done  # noqa: B018
    oracle.check()
    assert rx.share is not None
    assert not (rx.share / "f").exists()
