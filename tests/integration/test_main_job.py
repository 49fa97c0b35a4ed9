"""The main job, end to end, with real daemons: what issue and README promise first."""

from __future__ import annotations

import json
import os
import re

import pytest

from tests.rig import Host
from tests.rig.host import wait_until

PIECE = 65536


@pytest.mark.fault(44)
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 5_000_003])
def test_a_file_comes_from_two_holders_and_equals_the_original(host: Host, size: int) -> None:
    content = os.urandom(size)
    manager = host.manager()
    holders = [host.peer(f"h{i}", manager=manager, files={"bison.exe": content}) for i in (1, 2)]
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(2)
    done = peer.ask("req bison.exe").done
    assert peer.share is not None
    assert (peer.share / "bison.exe").read_bytes() == content
    assert done["path"] == str(peer.share / "bison.exe")
    assert done["size"] == size
    assert sum(source["bytes"] for source in done["sources"]) == size
    # It is listed and served from then on.
    peer.wait_files(1)
    for holder in holders:
        holder.kill()
    other = host.peer("late", manager=manager)
    wait_until(
        lambda: {p["name"] for p in other.ask("peers").items} == {"rx"}, "the dead are gone from the list"
    )
    assert other.ask("req bison.exe").done["id"] == done["id"]
    assert other.share is not None
    assert (other.share / "bison.exe").read_bytes() == content


@pytest.mark.parametrize(
    "name",
    [
        "a b.bin",
        "käse/größe.bin",
        "sub dir/deep/er/x",
        'quote\'d "name"',
        "日本/ファイル",
        "-rf",
    ],
)
def test_names_with_spaces_unicode_and_folders(host: Host, name: str) -> None:
    content = os.urandom(100_000)
    manager = host.manager()
    host.peer("holder", manager=manager, files={name: content})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    result = peer.ctl("req", "--json", "--", name)
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["name"] == name
    assert peer.share is not None
    assert (peer.share / name).read_bytes() == content


def test_one_of_two_holders_killed_half_way(host: Host) -> None:
    content = os.urandom(256 * 2**20)
    manager = host.manager()
    first = host.peer("h1", "--activity", "off", manager=manager, files={"big": content})
    host.peer("h2", "--activity", "off", manager=manager, files={"big": content})
    peer = host.peer("rx", "--activity", "off", manager=manager)
    peer.wait_peers(2)
    killed = False
    last = {}
    for event in peer.events("req big"):
        last = event
        if event["event"] == "progress" and 0 < event["bytes"] < event["size"] and not killed:
            first.kill()
            killed = True
    assert killed
    assert last["event"] == "done"
    assert peer.share is not None
    assert (peer.share / "big").read_bytes() == content
    assert sum(source["bytes"] for source in last["sources"]) == len(content)


@pytest.mark.parametrize("activity", ["on", "off"])
def test_the_console_says_what_goes_on(host: Host, activity: str) -> None:
    content = os.urandom(200_000)
    manager = host.manager()
    holder = host.peer("holder", "--activity", activity, manager=manager, files={"f": content})
    peer = host.peer("rx", "--activity", activity, manager=manager)
    peer.wait_peers(1)
    peer.ask("req f").done  # noqa: B018
    manager.console.wait("2 active peers")
    # The lines follow what is said at the socket: the summaries are the last ones.
    holder.console.wait(r"f: sent 200000 bytes to rx")
    peer.console.wait("f: 200000 bytes in")
    here = [
        "asked for piece list",
        "received piece list",
        r"asked for (piece|range) [0-9-]+",
        r"received (piece|range) [0-9-]+",
    ]
    there = [
        "asks for piece list",
        "sent piece list",
        r"asks for (piece|range) [0-9-]+",
        r"sent (piece|range) [0-9-]+",
    ]
    for daemon, kinds, other in ((peer, here, "holder"), (holder, there, "rx")):
        for kind in kinds:
            said = [line for line in daemon.console.lines if re.search(f"{kind} of f .*{other}", line)]
            assert bool(said) == (activity == "on"), (kind, daemon.console.text())
