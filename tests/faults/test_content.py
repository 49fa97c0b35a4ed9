"""Faults 36 to 47 of the catalogue: contents that are not what they should be."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import TypeVar

import attrs
import pytest

from p2pd.fetch.transfer import GRANTS
from p2pd.pieces import HASH_SIZE
from tests.rig import Daemon, FalsePeer, Flaws, Host, Oracle, Proxy, Toxics
from tests.rig.host import PATIENCE

PIECE = 65536
T = TypeVar("T", FalsePeer, Proxy)


@attrs.define
class Net:
    """A manager, a receiver and an honest holder that is not listed, for many cases."""

    host: Host
    manager: Daemon
    rx: Daemon
    holder: Daemon
    stack: contextlib.ExitStack = attrs.Factory(contextlib.ExitStack)

    def closing(self, made: T) -> T:
        """It is closed after the test."""
        return self.stack.enter_context(contextlib.closing(made))

    def false(self, name: str, content: bytes, flaws: Flaws | None = None, peer: str = "good") -> FalsePeer:
        return self.closing(FalsePeer(self.manager.port, name, content, flaws or Flaws(), peer=peer))

    def came(self, name: str, content: bytes) -> bool:
        assert self.rx.share is not None
        return (self.rx.share / name).read_bytes() == content


@pytest.fixture(scope="module")
def machines() -> Iterator[Net]:
    host = Host()
    manager = host.manager()
    yield Net(host, manager, host.peer("rx", manager=manager), host.peer("holder"))
    host.close()


@pytest.fixture
def net(machines: Net) -> Iterator[Net]:
    machines.rx.wait_peers(0)
    with contextlib.ExitStack() as stack:
        machines.stack = stack
        yield machines


def make(case: str) -> bytes:
    """Some content, the same whenever it is asked for; its last piece is short."""
    return Random(case).randbytes(8 * PIECE + 77)


@pytest.mark.fault(36)
@pytest.mark.parametrize("position", [0, 1, PIECE - 1, 3 * PIECE, 8 * PIECE + 76])
def test_a_byte_changed_by_its_holder(net: Net, position: int) -> None:
    name = f"flipped {position}"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    bad = net.false(name, content, Flaws(flip={position}), f"bad {position}")
    net.rx.wait_peers(1)
    asked = net.rx.begin(f"req '{name}'")
    net.rx.console.wait(f"bad {position} sent a wrong piece {position // PIECE} of")
    gets = len(bad.gets)
    net.false(name, content)
    done = asked.result(PATIENCE).done
    assert net.came(name, content)
    sources = {source["name"]: source["bytes"] for source in done["sources"]}
    assert sum(sources.values()) == len(content)
    assert sources["good"] >= min(PIECE, len(content) - position // PIECE * PIECE)
    # Those that were under way then may come a moment later.
    assert len(bad.gets) < gets + GRANTS, "it was asked again"
    oracle.check()


@pytest.mark.fault(12, 36)
@pytest.mark.parametrize(
    ("name", "flaws"), [("wrong piece", Flaws(flip={0})), ("wrong frame", Flaws(frame_longer=-100))]
)
def test_who_was_blamed_is_not_asked_again_when_he_comes_back(net: Net, name: str, flaws: Flaws) -> None:
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    bad = net.false(name, content, flaws, f"he with a {name}")
    net.rx.wait_peers(1)
    asked = net.rx.begin(f"req --timeout 2 '{name}'")
    net.rx.console.wait(f"he with a {name} (is dropped|sent a wrong piece)")
    gets = len(bad.gets)
    bad.hang_up()
    assert asked.result(PATIENCE).code == "no-sources"
    # Those that were under way then may come a moment later.
    assert len(bad.gets) < gets + GRANTS, "it was asked again"
    bad.close()
    oracle.check()


@pytest.mark.fault(36)
@pytest.mark.parametrize("position", [0, 4 * HASH_SIZE, 9 * HASH_SIZE - 1])
def test_a_byte_of_the_piece_list_changed(net: Net, position: int) -> None:
    name = f"list {position}"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    bad = net.false(name, content, Flaws(flip_manifest=position), f"bad list {position}")
    net.rx.wait_peers(1)
    asked = net.rx.begin(f"req '{name}'")
    net.rx.console.wait(f"bad list {position} is dropped: piece list")
    net.false(name, content)
    done = asked.result(PATIENCE).done
    assert net.came(name, content)
    assert done["sources"] == [{"name": "good", "bytes": len(content)}]
    assert not bad.gets
    oracle.check()


def flip(before: bytes, plus: int) -> Callable[[int, bytes], bytes]:
    """Changes one bit, once: ``plus`` bytes behind the first ``before`` of the stream."""
    done = False

    def change(offset: int, data: bytes) -> bytes:
        nonlocal done
        at = data.find(before)
        if done or at < 0 or at + plus >= len(data):
            return data
        done = True
        at += plus
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return change


DATA = b'data {"grant": 1, "offset": 0, "length": 65536}\n'


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("case", "before", "plus"),
    [
        ("verb", b"data {", 1),
        ("brace", b"data {", 5),
        ("grant", b"data {", DATA.index(b"1")),
        ("offset", b"data {", DATA.index(b"0")),
        ("length", b"data {", DATA.index(b"6553")),
        ("line feed", b"data {", DATA.index(b"\n")),
        ("first byte", b"data {", len(DATA)),
        ("later byte", b"data {", len(DATA) + 5000),
        ("list verb", b"piece list {", 2),
        ("list file", b"piece list {", 22),
        ("list hashes", b"piece list {", 300),
    ],
)
def test_a_bit_changed_on_the_way(net: Net, case: str, before: bytes, plus: int) -> None:
    name = f"wire {case}"
    content = make(name)
    assert net.holder.share is not None
    (net.holder.share / name).write_bytes(content)
    net.holder.console.wait("listening")
    wanted = sum(1 for each in net.holder.share.iterdir() if not each.name.startswith("."))
    net.holder.wait_files(wanted)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    proxy = net.closing(Proxy(net.holder.port, Toxics(change=flip(before, plus))))
    proxy.listed(net.manager.port, "proxied")
    net.rx.wait_peers(1)
    dropped = net.rx.console.text().count("holder is dropped") + net.rx.console.text().count("holder sent a")
    asked = net.rx.begin(f"req '{name}'")
    net.rx.console.wait("holder (is dropped|sent a wrong piece)", dropped + 1)
    net.false(name, content)
    done = asked.result(PATIENCE).done
    assert net.came(name, content)
    assert sum(source["bytes"] for source in done["sources"]) == len(content)
    oracle.check()


@pytest.mark.fault(37)
@pytest.mark.parametrize("size", [8 * PIECE + 78, 8 * PIECE + 76, 20 * PIECE, 0, 2**63 - 1])
def test_a_holder_that_lies_about_the_size(net: Net, size: int) -> None:
    name = f"size {size}"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    bad = net.false(name, content, Flaws(size=size), f"liar {size}")
    net.rx.wait_peers(1)
    asked = net.rx.begin(f"req '{name}'")
    net.rx.console.wait(f"liar {size}" + (": bad offer" if size > 2**60 else " is dropped: piece list"))
    net.false(name, content)
    done = asked.result(PATIENCE).done
    assert net.came(name, content)
    assert done["sources"] == [{"name": "good", "bytes": len(content)}]
    assert not bad.gets
    oracle.check()


@pytest.mark.fault(37)
@pytest.mark.parametrize("begun", [False, True])
def test_a_size_that_the_chosen_id_does_not_stand_for(net: Net, begun: bool) -> None:
    name = f"another size {begun}"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    good = net.false(name, content, Flaws(no_list=not begun, rate=2 * PIECE))
    net.rx.wait_peers(1)
    asked = net.rx.begin(f"req '{name}'")
    assert (good.served if begun else good.listed).wait(PATIENCE)
    bitfield = b"\x80" + bytes(124)
    bad = net.false(name, content, Flaws(size=1000 * PIECE, bitfield=bitfield), f"sizer {begun}")
    assert bad.asked.wait(PATIENCE)
    good.go_on.set()
    net.rx.console.wait(f"sizer {begun}: bad offer")
    (listed,) = [item for item in net.rx.ask("transfers").items if item["name"] == name]
    assert [each["name"] for each in listed["banned"]] == [f"sizer {begun}"]
    done = asked.result(PATIENCE).done
    assert net.came(name, content)
    assert done["sources"] == [{"name": "good", "bytes": len(content)}]
    assert not bad.gets
    oracle.check()


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    ("case", "flaws"),
    [
        ("pieces", Flaws(flip={4 * PIECE})),
        ("lists", Flaws(flip_manifest=5)),
        ("frames", Flaws(frame_shift=1)),
        ("sizes", Flaws(size=8 * PIECE + 78)),
    ],
)
def test_all_sources_are_corrupt(net: Net, case: str, flaws: Flaws) -> None:
    name = f"all {case}"
    content = make(name)
    oracle = Oracle(net.host, [net.rx], {name: content}).warm()
    bad = [net.false(name, content, attrs.evolve(flaws), f"{case} {number}") for number in (1, 2)]
    net.rx.wait_peers(2)
    result = net.rx.ctl("req", "--json", "--timeout", "2", name)
    assert result.returncode == 5, result.stdout + result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["code"] == "no-sources"
    assert net.rx.share is not None
    assert not (net.rx.share / name).exists()
    (listed,) = [item for item in net.rx.ask("transfers").items if item["name"] == name]
    assert listed["state"] == "waiting"
    assert {each["name"] for each in listed["banned"]} == {f"{case} {number}" for number in (1, 2)}
    net.rx.ask(f"cancel {listed['id']}").done  # noqa: B018
    for peer in bad:
        assert peer.lists <= 1, "it was asked again"
        peer.close()
    oracle.check()
    assert not (net.rx.share / name).exists()
