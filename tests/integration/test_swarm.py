"""One owner and several who want the file: real daemons, each other's sources while they fetch."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from p2pd.fetch.neighbours import ALL_BELOW
from p2pd.pieces import default_piece_size, parse_runs, piece_count
from tests.rig import Daemon, Host
from tests.rig.host import Result, wait_until, write_file

SIZE = 12 * 2**20
SLOW = "2M"
"""Bytes per second: a transfer takes long enough to interfere with it."""


def copies_sent(owner: Daemon, size: int = SIZE) -> float:
    """How often it sent the file."""
    rows = [row for row in owner.ask("transfers").items if row["direction"] == "out"]
    return float(sum(row["bytes"] for row in rows) / size)


def held(peer: Daemon) -> int:
    """Bytes of what is coming in."""
    rows = [row for row in peer.ask("transfers").items if row["direction"] == "in"]
    return sum(int(row["bytes"]) for row in rows)


def pieces(peer: Daemon) -> set[int]:
    """Those of f that it holds."""
    result = peer.ask("pieces f")
    return {n for row in result.items for n in parse_runs(row["pieces"], row["count"])}


def _has_a_quarter(peer: Daemon) -> bool:
    return held(peer) > SIZE // 4


class Swarm:
    """An owner and ``count`` peers, who know of each other by a manager."""

    def __init__(
        self, host: Host, count: int, *args: str, each: tuple[str, ...] = (), size: int = SIZE
    ) -> None:
        self.content = os.urandom(size)
        self.manager = host.manager()
        self.owner = host.peer("owner", *args, manager=self.manager, files={"f": self.content})
        self.peers = [host.peer(f"p{number}", *each, manager=self.manager) for number in range(count)]
        for peer in self.peers:
            peer.wait_peers(count)

    def ask(self) -> list[Future[Result]]:
        return [peer.begin("req f --timeout 100", 110) for peer in self.peers]

    def check(self, asked: list[Future[Result]]) -> list[dict[str, int]]:
        """All have it; gives what each had from whom."""
        found = []
        for peer, each in zip(self.peers, asked, strict=True):
            done = each.result(110).done
            assert peer.share is not None
            assert (peer.share / "f").read_bytes() == self.content
            found.append({source["name"]: source["bytes"] for source in done["sources"]})
        return found


def test_those_who_fetch_feed_each_other(host: Host) -> None:
    swarm = Swarm(host, 4, "--up-limit", "4M")
    sources = swarm.check(swarm.ask())
    assert copies_sent(swarm.owner) < 1.6
    for number, each in enumerate(sources):
        assert sum(each.values()) == SIZE
        others = sum(count for name, count in each.items() if name != "owner")
        assert others > SIZE // 3, "most of it came from the others"
        assert f"p{number}" not in each


def test_long_pieces_come_to_all_though_what_is_not_needed_is_put_off(host: Host) -> None:
    limit = ("--up-limit", "4M")
    swarm = Swarm(host, 6, "--piece-size", "512K", *limit, each=limit)
    for each in swarm.check(swarm.ask()):
        assert sum(each.values()) == SIZE
        assert sum(count for name, count in each.items() if name != "owner") > SIZE // 2
    assert copies_sent(swarm.owner) < 2


def test_more_than_talk_to_all_and_all_find_the_one_who_has_it(host: Host) -> None:
    size = 2**20
    swarm = Swarm(host, ALL_BELOW + 4, size=size)
    for each in swarm.check(swarm.ask()):
        assert sum(each.values()) == size


def test_who_comes_later_finds_those_who_are_at_it(host: Host) -> None:
    swarm = Swarm(host, 3, "--up-limit", SLOW)
    *early, late = swarm.peers
    asked = [peer.begin("req f", 100) for peer in early]
    wait_until(lambda: all(held(peer) > SIZE // 3 for peer in early), "they have a third")
    asked.append(late.begin("req f", 100))
    sources = swarm.check(asked)
    assert sources[-1].get("p0", 0) + sources[-1].get("p1", 0) > SIZE // 2
    assert copies_sent(swarm.owner) < 1.8


def test_the_owner_dies_when_one_copy_is_out(host: Host) -> None:
    swarm = Swarm(host, 4, "--up-limit", SLOW)
    asked = swarm.ask()
    everything = set(range(piece_count(SIZE, default_piece_size(SIZE))))
    wait_until(lambda: set().union(*map(pieces, swarm.peers)) == everything, "a copy is out")
    swarm.owner.kill()
    swarm.check(asked)


def test_the_owner_dies_before_that_and_comes_back(host: Host) -> None:
    swarm = Swarm(host, 3, "--up-limit", SLOW)
    asked = swarm.ask()
    wait_until(lambda: copies_sent(swarm.owner) > 0.4, "a part is out")
    swarm.owner.kill()

    def all_the_same() -> bool:
        # What one of them has, all have, and nothing more comes.
        return len({held(peer) for peer in swarm.peers}) == 1 and all(
            row["state"] == "waiting"
            for peer in swarm.peers
            for row in peer.ask("transfers").items
            if row["direction"] == "in"
        )

    wait_until(all_the_same, "they have shared what there is, and wait")
    assert 0 < held(swarm.peers[0]) < SIZE
    assert not any(each.done() for each in asked)
    swarm.owner.start()
    swarm.check(asked)


def test_a_receiver_is_killed_and_comes_back(host: Host) -> None:
    swarm = Swarm(host, 3, "--up-limit", SLOW)
    first = swarm.peers[0]
    asked = swarm.ask()
    wait_until(lambda: held(first) > SIZE // 3, "it has a third")
    first.kill()
    with pytest.raises((AssertionError, OSError)):
        asked[0].result(60)
    first.start()
    assert first.share is not None
    wait_until((first.share / "f").exists, "it goes on by itself")
    asked[0] = first.begin("req f")
    swarm.check(asked)


def test_those_who_come_one_after_the_other_take_it_from_those_before(host: Host) -> None:
    swarm = Swarm(host, 4, "--up-limit", SLOW)
    asked = []
    for number, peer in enumerate(swarm.peers):
        asked.append(peer.begin("req f --timeout 100", 110))
        if number < 3:
            wait_until(partial(_has_a_quarter, peer), "it has a quarter")
    for number, brought in enumerate(swarm.check(asked)):
        assert sum(brought.values()) == SIZE
        if number >= 2:
            assert sum(brought.get(f"p{other}", 0) for other in range(number)) > SIZE // 2
    assert copies_sent(swarm.owner) < 2


def test_one_that_pauses_stops_nobody_and_goes_on(host: Host) -> None:
    swarm = Swarm(host, 3, "--up-limit", SLOW)
    first, *others = swarm.peers
    transfer = first.ask("req f --no-wait").events[0]["transfer"]
    asked = [peer.begin("req f --timeout 100", 110) for peer in others]
    wait_until(lambda: held(first) > SIZE // 3, "it has a third")
    first.ask(f"pause {transfer}").done  # noqa: B018
    kept = held(first)
    for each in asked:
        each.result(110).done  # noqa: B018
    assert held(first) < kept + SIZE // 8 < SIZE, "nothing comes to it but what was on its way"
    first.ask(f"resume {transfer}").done  # noqa: B018
    swarm.check([first.begin("req f", 110), *asked])


def test_the_owners_file_becomes_another_and_is_put_back(host: Host) -> None:
    swarm = Swarm(host, 3, "--up-limit", SLOW)
    asked = swarm.ask()
    wait_until(lambda: copies_sent(swarm.owner) > 0.3, "a part is out")
    assert swarm.owner.share is not None
    file = swarm.owner.share / "f"
    other = file.with_name("new")
    other.write_bytes(os.urandom(SIZE))
    before = swarm.owner.ask("files").items[0]["id"]
    other.replace(file)
    wait_until(lambda: swarm.owner.ask("files").items[0]["id"] not in (before, None), "it offers another")

    def all_wait() -> bool:
        rows = [row for peer in swarm.peers for row in peer.ask("transfers").items]
        coming = [row["state"] for row in rows if row["direction"] == "in"]
        return coming == ["waiting"] * 3

    wait_until(all_wait, "nobody takes pieces of the other one")
    assert not any(each.done() for each in asked)
    assert all((peer.share is not None and not (peer.share / "f").exists()) for peer in swarm.peers)
    other.write_bytes(swarm.content)
    other.replace(file)
    swarm.check(asked)


def test_a_ring_of_five_without_a_manager(host: Host, tmp_path: Path) -> None:
    """The classical exercise: pieces of 100 KB, each peer knows its successor and the owner."""
    content = os.urandom(1_234_567)
    owner = host.peer("owner", "--piece-size", "100K", files={"file.bin": content})
    ports = _free_ports(5)
    ring = [
        host.peer(
            f"peer{number}", "--port", str(port), "--owner", f"localhost:{owner.port}",
            "--neighbor", f"localhost:{ports[(number + 1) % 5]}",
        )
        for number, port in enumerate(ports)
    ]  # fmt: skip
    asked = [peer.begin("req file.bin", 60) for peer in ring]
    for number, (peer, each) in enumerate(zip(ring, asked, strict=True)):
        done = each.result(60).done
        assert peer.share is not None
        assert (peer.share / "file.bin").read_bytes() == content
        brought = {source["name"]: source["bytes"] for source in done["sources"]}
        neighbour = f"peer{(number + 1) % 5}"
        assert set(brought) <= {"owner", neighbour}
        assert brought[neighbour] >= len(content) // 2
        (row,) = peer.ask("pieces file.bin").items
        assert (row["count"], row["held"], row["piece_size"], row["pieces"]) == (13, 13, 100_000, "0-12")
    assert copies_sent(owner, len(content)) <= 1.5
    seen = ring[0].console.text()
    for kind in ("asked for", "asks for", "sent", "received"):
        for what in ("piece", "piece list"):
            assert f"{kind} {what}" in seen, f"{kind} {what}"


def test_a_peer_takes_nothing_from_who_is_not_its_neighbour(host: Host) -> None:
    content = os.urandom(300_000)
    holder = host.peer("holder", files={"f": content})
    other = host.peer("other", files={"g": content})
    peer = host.peer("peer", "--neighbor", f"127.0.0.1:{other.port}")
    assert peer.ask("req f --timeout 1").code == "not-found"
    stranger = host.peer("stranger", "--neighbor", f"127.0.0.1:{holder.port}")
    assert stranger.ask("req f").done["sources"] == [{"name": "holder", "bytes": len(content)}]


def test_a_neighbour_that_comes_later_is_waited_for(host: Host) -> None:
    content = os.urandom(300_000)
    (port,) = _free_ports(1)
    share = host.folder / "peer"
    peer = host.peer("peer", "--neighbor", f"localhost:{port}")
    assert peer.ask("req f").code == "not-found"
    holder = host.peer("holder", "--port", str(port), files={"f": content})
    assert peer.ask("req f").done["size"] == len(content)
    write_file(host.folder / "holder" / "g", content[:1000])
    holder.wait_files(2)
    assert peer.ask("req g").done["size"] == 1000
    assert (share / "g").read_bytes() == content[:1000]


def _free_ports(count: int) -> list[int]:
    """Of those that the kernel gives to nobody, be it for an outgoing connection."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    free: list[int] = []
    below = range(1024, int(given.split()[0]))
    for port in random.sample(below, len(below)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            free.append(port)
            if len(free) == count:
                return free
    raise AssertionError("no free ports")
