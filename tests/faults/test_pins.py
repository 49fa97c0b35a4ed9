"""A content that is another one, a file that goes away, and a file too large to be hashed at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2pd.wire import messages as m
from tests.rig import FalsePeer, Flaws, Host, Oracle, Raw
from tests.rig.behind import behind_proxy
from tests.rig.host import wait_until, write_file

SIZE = 4_000_000

# 38


@pytest.mark.fault(38)
def test_a_consistent_fake_is_another_content_and_fails_the_digest(host: Host) -> None:
    import hashlib

    right, fake = os.urandom(SIZE), os.urandom(SIZE)
    digest = hashlib.sha256(right).hexdigest()
    manager = host.manager()
    faker = FalsePeer(manager.port, "f", fake, Flaws(), peer="faker")
    host.on_close(faker.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    oracle = Oracle(host, [peer], {"f": right}).warm()
    assert peer.share is not None
    # Alone, it is all there is: every piece is what it says, and only the digest tells.
    done = peer.ctl("--json", "req", "--sha256", digest, "f")
    assert done.returncode == 6, done.stdout + done.stderr
    assert '"verify-failed"' in done.stdout
    assert sum(get.length for get in faker.gets) == SIZE, "it came whole before it was refused"
    assert not (peer.share / "f").exists()
    wait_until(lambda: not list((peer.share / ".p2pd").iterdir()), "nothing of it is left")  # type: ignore[operator]
    assert peer.ask("files").items == []
    (ended,) = [item for item in peer.ask("transfers").items if item["name"] == "f"]
    assert (ended["state"], ended["code"]) == ("failed", "verify-failed")
    # Beside the right one it is a conflict, with or without the digest, and --id picks.
    holder = host.peer("h", manager=manager, files={"f": right})
    peer.wait_peers(2)
    for line in ("req f", f"req f --sha256 {digest}"):
        result = peer.ask(line)
        assert result.code == "conflict"
        variants = {each["id"]: each["holders"] for each in result.last["variants"]}
        assert variants == {
            faker.manifest.file_id: ["faker"],
            holder.ask("files").items[0]["id"]: ["h"],
        }
    assert peer.ask(f"req f --id {faker.manifest.file_id} --sha256 {digest}").code == "verify-failed"
    assert not (peer.share / "f").exists()
    # Nor is a file that is here already what it is said to be.
    write_file(peer.share / "mine", fake)
    peer.wait_files(1)
    assert peer.ask(f"req mine --sha256 {digest}").code == "verify-failed"
    assert (peer.share / "mine").read_bytes() == fake
    chosen = peer.ask(f"req f --from h --sha256 {digest}").done
    assert chosen["sources"] == [{"name": "h", "bytes": SIZE}]
    assert (peer.share / "f").read_bytes() == right
    oracle.daemons.append(holder)
    oracle.relinked()
    oracle.check()


# 42


@pytest.mark.fault(42)
@pytest.mark.parametrize("other", [True, False], ids=["another-holder", "the-only-one"])
def test_a_file_is_deleted_in_the_middle_of_its_transfer(host: Host, other: bool) -> None:
    content = os.urandom(SIZE)
    manager = host.manager()
    holder, proxy = behind_proxy(host, manager, "h1", files={"f": content}, rate=600_000)
    if other:
        behind_proxy(host, manager, "h2", files={"f": content}, rate=600_000)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1 + other)
    assert holder.share is not None
    assert peer.share is not None
    oracle = Oracle(host, [holder, peer], {"f": content}).warm()
    deleted, last = False, {}
    for event in peer.events("req f --timeout 2"):
        last = event
        if event["event"] == "progress" and event["bytes"] > SIZE // 3 and not deleted:
            deleted = True  # more than a second after the first offer: the offers are closed
            (holder.share / "f").unlink()
            proxy.toxics.rate = None
    assert deleted
    if other:
        assert last["event"] == "done", last
        assert sum(source["bytes"] for source in last["sources"]) == SIZE
    else:
        assert (last["event"], last["code"]) == ("failed", "no-sources")
        assert not (peer.share / "f").exists()
        (row,) = [item for item in peer.ask("transfers").items if item["name"] == "f"]
        assert row["state"] == "waiting"
        held = row["bytes"]
        assert 0 < held < SIZE
        # It stops so that it can go on, also after a kill: with what was held, from whoever has it next.
        peer.kill()
        peer.start()
        peer.wait_peers(1)
        third = host.peer("h3", manager=manager, files={"f": content})
        wait_until((peer.share / "f").exists, "it goes on by itself")
        sent = {item["name"]: item["bytes"] for item in third.ask("transfers").items}
        assert sent["f"] < SIZE - held // 2, "what was held is not fetched again"
        oracle.relinked()
    assert (peer.share / "f").read_bytes() == content
    oracle.check()


# 43

HUGE = 2**40


def huge_file(share: Path) -> Path:
    """1 TiB of which nothing lies on the disk."""
    path = share / "huge"
    with open(path, "wb") as file:
        file.truncate(HUGE)
    return path


@pytest.mark.fault(43)
def test_a_huge_file_is_hashed_beside_everything_else_and_let_go_of(host: Host) -> None:
    holder = host.peer("h", files={"plain": b"shared"})
    assert holder.share is not None
    oracle = Oracle(host, [holder], {"plain": b"shared"})
    path = huge_file(holder.share)
    wait_until(lambda: holder.status()["files"] == 2, "it is found")

    def progress(raw: Raw, beyond: int) -> int:
        while (told := raw.expect(m.Hashing)).done <= beyond:
            pass
        assert told.size == HUGE
        return int(told.done)

    with Raw(holder.port) as raw:
        raw.hello()
        raw.send(m.Req(1, "huge", 0))
        done = progress(raw, 0)
        # Between two words about its progress, others are answered, and their files hashed.
        for number in range(3):
            done = progress(raw, done)
            assert holder.status()["files"] >= 2
            write_file(holder.share / f"new {number}", b"%d" % number)
            with Raw(holder.port) as other:
                other.hello()
                have = other.req("plain")
                assert isinstance(have, m.Have)
                assert other.fetch(have, 0, 6) == b"shared"
                other.send(m.Req(2, f"new {number}", 0))
                assert other.expect(m.Have).size == 1
        assert [item["id"] for item in holder.ask("files").items if item["name"] == "huge"] == [None]
        # Removed, it is no more hashed, and who waits is told at once.
        path.unlink()
        while not isinstance(raw.receive(), m.NotHave):
            pass
        wait_until(lambda: holder.status()["files"] == 4, "it is gone")
        # The space is given back: no thread reads it any more.
        wait_until(lambda: "huge" not in open_files(holder.pid), "nobody has it open")
    oracle.check()
    # Nor does it keep the daemon from stopping.
    huge_file(holder.share)
    wait_until(lambda: "huge" in open_files(holder.pid), "it is being hashed")
    assert holder.stop() == 0


def open_files(pid: int) -> str:
    """Where the descriptors of a process lead."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            continue
    return "\n".join(found)
