"""Fault 5: a machine that vanishes without a word, as after a power cut or with a cable pulled."""

from __future__ import annotations

import os

import pytest

from tests.rig import Host, Oracle
from tests.rig.host import PATIENCE, wait_until
from tests.rig.lan import Lan


@pytest.mark.fault(5)
@pytest.mark.needs("root", "ip", "tc")
def test_a_machine_vanishes_in_the_middle_of_a_transfer(host: Host) -> None:
    content = os.urandom(16 * 2**20)
    lan = Lan(3, rate="30mbit")
    host.on_close(lan.close)
    manager = host.manager("--host", "0.0.0.0", "--port", "12000", "--lease", "2", prefix=lan.on(0))
    where = f"{lan.addresses[0]}:12000"
    gone = host.peer("gone", "--host", "0.0.0.0", manager=where, prefix=lan.on(1), files={"f": content})
    rx = host.peer("rx", "--host", "0.0.0.0", manager=where, prefix=lan.on(2))
    rx.wait_peers(1)
    oracle = Oracle(host, [manager, gone, rx], {"f": content}).warm()
    before = gone.fds()

    def transfer() -> dict[str, object]:
        items = [item for item in rx.ask("transfers").items if item["name"] == "f"]
        return items[0] if items else {"bytes": 0}

    asked = rx.begin("req f --timeout 600", 4 * PATIENCE)
    wait_until(lambda: transfer()["bytes"], "it has begun")
    lan.link(1, up=False)
    # No packet says so to anybody: each notices by itself.
    rx.wait_peers(0)
    manager.console.wait("nothing was heard of a peer for the length of its lease")
    gone.console.wait("nothing was heard of the manager for too long")
    wait_until(lambda: transfer()["state"] == "waiting", "the receiver has no source")
    held = transfer()["bytes"]
    assert isinstance(held, int)
    assert 0 < held < len(content)
    # By what waits to be sent, or where the kernel took all of it, by silence.
    gone.console.wait("takes nothing any more|has said nothing for", patience=4 * PATIENCE)
    wait_until(lambda: gone.fds() <= before, "what was open to the receiver is closed")
    oracle.answers(rx)
    lan.link(1, up=True)
    done = asked.result(4 * PATIENCE).done
    assert (host.folder / "rx/f").read_bytes() == content
    assert done["sources"] == [{"name": "gone", "bytes": len(content)}]
    oracle.check()
