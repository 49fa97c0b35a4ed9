"""Three machines, with the lines that the README gives for them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.rig import Host
from tests.rig.host import wait_until
from tests.rig.lan import Lan

pytestmark = pytest.mark.needs("root", "ip")


@pytest.fixture
def lan() -> Iterator[Lan]:
    made = Lan(3)
    yield made
    made.close()


def test_a_file_comes_from_two_machines_to_a_third_one(host: Host, lan: Lan) -> None:
    content = os.urandom(64 * 2**20)
    first, second, third = lan.addresses
    host.manager("--host", "0.0.0.0", "--port", "12000", prefix=lan.on(0))
    where = f"{first}:12000"

    one = host.peer(
        "one",
        "--host",
        "0.0.0.0",
        "--port",
        "7001",
        manager=where,
        prefix=lan.on(0),
        files={"bison.exe": content},
    )
    host.peer(
        "two",
        "--host",
        "0.0.0.0",
        "--port",
        "7002",
        manager=where,
        prefix=lan.on(1),
        files={"bison.exe": content},
    )
    three = host.peer("three", "--host", third, "--port", "7003", manager=where, prefix=lan.on(2))
    three.wait_peers(2)
    rows = {row["name"]: (row["host"], row["port"]) for row in three.ask("peers").items}
    # The one on the manager's machine is known under the address by which the manager is reached.
    assert rows == {"one": (first, 7001), "two": (second, 7002)}
    one.wait_peers(2)
    rows = {row["name"]: (row["host"], row["port"]) for row in one.ask("peers").items}
    assert rows == {"two": (second, 7002), "three": (third, 7003)}
    done = three.ask("req bison.exe").done
    assert {source["name"] for source in done["sources"]} == {"one", "two"}
    assert (host.folder / "three/bison.exe").read_bytes() == content


def test_a_peer_on_loopback_is_shown_to_its_own_machine_only(host: Host, lan: Lan) -> None:
    host.manager("--host", "0.0.0.0", "--port", "12000", prefix=lan.on(0))
    where = f"{lan.addresses[0]}:12000"
    hidden = host.peer("hidden", manager=where, prefix=lan.on(1))
    wait_until(lambda: hidden.status()["problems"], "it is told")
    assert hidden.status()["manager"] == "connected"
    neighbour = host.peer("neighbour", manager=where, prefix=lan.on(1))
    neighbour.wait_peers(1)
    assert neighbour.ask("peers").items[0]["host"] == "127.0.0.1"
    elsewhere = host.peer("elsewhere", "--host", "0.0.0.0", manager=where, prefix=lan.on(2))
    hidden.wait_peers(2)
    wait_until(lambda: elsewhere.status()["manager"] == "connected", "it is connected")
    assert elsewhere.ask("peers").items == []


def test_a_cable_that_is_pulled_and_plugged_again(host: Host, lan: Lan) -> None:
    content = os.urandom(8 * 2**20)
    host.manager("--host", "0.0.0.0", "--port", "12000", "--lease", "2", prefix=lan.on(0))
    where = f"{lan.addresses[0]}:12000"
    host.peer("one", "--host", "0.0.0.0", manager=where, prefix=lan.on(1), files={"f": content})
    peer = host.peer("rx", "--host", "0.0.0.0", manager=where, prefix=lan.on(2))
    peer.wait_peers(1)
    lan.link(1, up=False)
    peer.wait_peers(0)
    assert peer.ask("req f --timeout 1").code == "not-found"
    lan.link(1, up=True)
    peer.wait_peers(1)
    peer.ask("req f").done  # noqa: B018
    assert (host.folder / "rx/f").read_bytes() == content
