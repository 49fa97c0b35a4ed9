"""Orders of events that once went wrong, with real daemons: each test failed before its fix."""

from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from p2pd.model import TransferId
from p2pd.pieces import Bitfield
from p2pd.share.partial import Job, PartialStore
from p2pd.share.paths import ShareRoot
from p2pd.wire import messages as m
from tests.rig import Daemon, FalsePeer, Flaws, Host, Raw
from tests.rig.behind import behind_proxy
from tests.rig.false_peer import manifest_of
from tests.rig.host import wait_until, write_file

CONTENT = os.urandom(300_000)


def slow_reads(microseconds: int) -> list[str]:
    """Reading what is held takes long enough to be met while it goes on."""
    inject = f"inject=preadv,preadv2:delay_enter={microseconds}"
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=preadv,preadv2", "-e", inject]


def row(peer: Daemon, transfer: str) -> dict[str, object]:
    """What `transfers` says of one."""
    rows = [item for item in peer.ask("transfers").items if item["id"] == transfer]
    return rows[0] if rows else {"state": "not loaded yet"}


Halves = tuple[Daemon, dict[str, FalsePeer], list[str]]


def half_fetched(host: Host, manager: Daemon, names: dict[str, bytes]) -> Halves:
    """A peer that was stopped with about half of each file; its holders; the transfers' ids."""
    holders = {}
    for name, content in names.items():
        flaws = Flaws(after=len(content) // 2, then="stall")
        holders[name] = FalsePeer(manager.port, name, content, flaws, peer=f"of {name}")
        host.on_close(holders[name].close)
    peer = host.peer("rx", "--activity", "off", manager=manager)
    peer.wait_peers(len(holders))
    ids = [peer.ask(f"req {name} --no-wait").events[0]["transfer"] for name in names]

    def all_in_part() -> bool:
        came = {item["name"]: item["bytes"] for item in peer.ask("transfers").items}
        return all(came[name] > len(content) // 3 for name, content in names.items())

    wait_until(all_in_part, "a part of each came")
    peer.stop()
    return peer, holders, ids


@pytest.mark.needs("strace")
def test_cancelling_what_is_being_hashed_after_a_restart(host: Host) -> None:
    manager = host.manager()
    peer, _, (transfer,) = half_fetched(host, manager, {"f": os.urandom(8_000_000)})
    peer._prefix = slow_reads(400_000)
    peer.start()
    wait_until(lambda: row(peer, transfer)["state"] == "verifying", "it is being hashed")
    peer.ask(f"cancel {transfer}").done  # noqa: B018
    assert row(peer, transfer)["state"] == "cancelled"
    assert not list((host.folder / "rx/.p2pd").glob("*"))
    peer.ask("status").done  # noqa: B018
    assert "Traceback" not in peer.console.text()


@pytest.mark.needs("strace")
def test_several_transfers_go_on_after_a_restart_with_what_they_had(host: Host) -> None:
    manager = host.manager()
    contents = {name: os.urandom(4_000_000) for name in ("a", "b", "c")}
    peer, holders, _ = half_fetched(host, manager, contents)
    before = {name: holder.sent for name, holder in holders.items()}
    for holder in holders.values():
        holder.flaws = Flaws()
        holder.go_on.set()
    peer._prefix = slow_reads(50_000)
    peer.start()
    for name, content in contents.items():
        wait_until((host.folder / "rx" / name).exists, f"{name} is complete")
        assert (host.folder / "rx" / name).read_bytes() == content
        assert holders[name].sent - before[name] < len(content) * 3 // 4, "what was held is fetched again"
    assert "Traceback" not in peer.console.text()


def test_one_content_under_two_names_from_one_holder(host: Host) -> None:
    content = os.urandom(6_000_000)
    manager = host.manager()
    behind_proxy(host, manager, "holder", files={"f": content}, rate=4_000_000)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    first = peer.events("req f")
    for event in first:
        if event["event"] == "progress" and event["bytes"]:
            break
    peer.ask("req f --output g").done  # noqa: B018
    *_, last = first
    assert last["event"] == "done"
    assert (host.folder / "rx/f").read_bytes() == (host.folder / "rx/g").read_bytes() == content


def test_a_holder_that_never_grants_is_no_source(host: Host) -> None:
    manager = host.manager()
    holder = FalsePeer(manager.port, "f", CONTENT, Flaws(no_grant=True))
    host.on_close(holder.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    assert peer.ask("req f --timeout 1").code == "no-sources"
    assert peer.ask("transfers").items[0]["state"] == "waiting"
    holder.flaws.no_grant = False
    peer.ask("req f").done  # noqa: B018
    assert (host.folder / "rx/f").read_bytes() == CONTENT


def test_a_request_from_before_a_kill_still_meets_a_conflict(host: Host) -> None:
    manager = host.manager()
    peer = host.peer("rx", manager=manager)
    port = str(manager.port)
    manager.kill()
    wait_until(lambda: peer.status()["manager"] == "connecting", "the loss is noticed")
    transfer = peer.ask("req f --no-wait").events[0]["transfer"]
    peer.kill()
    peer.start()
    wait_until(lambda: row(peer, transfer)["state"] == "waiting", "nobody has it: it waits")
    manager = host.manager("--port", port)
    first, second = (FalsePeer(manager.port, "f", bytes([n]) * 100, Flaws(), peer=f"p{n}") for n in (1, 2))
    host.on_close(first.close)
    host.on_close(second.close)
    wait_until(lambda: row(peer, transfer)["state"] in ("failed", "done"), "it ends")
    assert row(peer, transfer)["code"] == "conflict"
    assert not (host.folder / "rx/f").exists()


def test_another_content_instead_of_the_rest(host: Host) -> None:
    content = os.urandom(2_000_000)
    manager = host.manager()
    old = FalsePeer(manager.port, "f", content, Flaws(after=500_000, then="close", dies=True), peer="old")
    host.on_close(old.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    assert peer.ask("req f --timeout 1").code == "no-sources"
    host.peer("new", manager=manager, files={"f": CONTENT})
    peer.wait_peers(1)
    failed = peer.ask("req f")
    assert failed.code == "conflict"
    assert {variant["size"] for variant in failed.last["variants"]} == {len(content), len(CONTENT)}
    (transfer,) = [item["id"] for item in peer.ask("transfers").items]
    peer.ask(f"cancel {transfer}").done  # noqa: B018
    peer.ask("req f").done  # noqa: B018
    assert (host.folder / "rx/f").read_bytes() == CONTENT


def test_a_req_of_a_paused_transfer_lets_it_go_on(host: Host) -> None:
    manager = host.manager()
    holder = FalsePeer(manager.port, "f", CONTENT, Flaws(after=0, then="stall"))
    host.on_close(holder.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    transfer = peer.ask("req f --no-wait").events[0]["transfer"]
    holder.served.wait(30)
    peer.ask(f"pause {transfer}").done  # noqa: B018
    holder.go_on.set()
    peer.ask("req f").done  # noqa: B018
    assert (host.folder / "rx/f").read_bytes() == CONTENT


def test_descriptors_are_given_back_when_a_connection_ends_within_a_frame(host: Host) -> None:
    holder = host.peer("holder", files={"f": os.urandom(30_000_000)})

    def leave_within_a_frame() -> None:
        with Raw(holder.port) as raw:
            raw.hello()
            have = raw.req("f")
            assert isinstance(have, m.Have)
            raw.send(m.Want(have.file, 1))
            grant = raw.expect(m.Grant)
            raw.send(m.Get(grant.grant, 0, 16_000_000))
            raw.expect(m.Data)
            raw.send(m.Cancel(grant.grant))
            raw.send(m.Want(have.file, 0))
            raw.send(m.Ping(1))

    leave_within_a_frame()
    before = holder.fds()
    for _ in range(10):
        leave_within_a_frame()
    wait_until(lambda: holder.fds() <= before, "descriptors are given back")


def test_more_files_at_once_than_a_conversation_has_open(host: Host) -> None:
    manager = host.manager()
    files = {f"f{n}": os.urandom(200_000) for n in range(150)}
    behind_proxy(host, manager, "holder", "--activity", "off", files=files, rate=40_000_000)
    peer = host.peer("rx", "--activity", "off", manager=manager)
    peer.wait_peers(1)
    for name in files:
        peer.ask(f"req {name} --no-wait")
    wait_until(lambda: all((host.folder / "rx" / name).exists() for name in files), "all came", 60)
    assert all((host.folder / "rx" / name).read_bytes() == content for name, content in files.items())
    assert "dropped" not in peer.console.text()


def test_who_claims_a_holders_id_does_not_hide_the_holder(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("holder", manager=manager, files={"f": CONTENT})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    with Raw(holder.port) as raw:
        holder_id = raw.hello().id
    with Raw(peer.port) as liar:
        liar.id = holder_id
        liar.hello("holder", 1)
        peer.ask("req f").done  # noqa: B018
    assert (host.folder / "rx/f").read_bytes() == CONTENT


def test_replace_fetches_only_another_content(host: Host) -> None:
    manager = host.manager()
    host.peer("holder", manager=manager, files={"f": CONTENT})
    peer = host.peer("rx", manager=manager, files={"f": CONTENT, "only": b"here"})
    peer.wait_peers(1)
    before = (host.folder / "rx/f").stat().st_ino
    assert peer.ask("req f --replace").done["sources"] == []
    assert peer.ask("req only --replace").done["sources"] == []
    assert (host.folder / "rx/f").stat().st_ino == before


def test_a_kill_between_the_name_and_the_manifest(host: Host) -> None:
    manager = host.manager()
    share = host.folder / "rx"
    share.mkdir()
    manifest = manifest_of(CONTENT, 100_000)
    root = ShareRoot.open(str(share))
    store = PartialStore(root)
    job = Job(TransferId("0123456789ab"), "f", "f")
    partial = store.begin(job, manifest)
    partial.write(0, CONTENT)
    partial.save(Bitfield.full(manifest.count))
    partial.finish("f")  # and here comes the kill
    partial.close()
    store.close()
    root.close()
    peer = host.peer("rx", manager=manager)
    wait_until(
        lambda: [i["id"] for i in peer.ask("files").items] == [manifest.file_id], "it keeps its manifest"
    )
    wait_until(lambda: not list((share / ".p2pd").iterdir()), "what is left over is removed")
    peer.stop()
    peer.start()
    peer.wait_files(1)
    assert peer.ask("files").items[0]["id"] == manifest.file_id


def test_a_folder_of_ours_that_is_a_file_does_not_keep_the_daemon_from_serving(host: Host) -> None:
    write_file(host.folder / "rx/f", CONTENT)
    (host.folder / "rx/.p2pd").write_text("no folder")
    peer = host.peer("rx")
    peer.wait_files(1)
    wait_until(lambda: peer.status()["problems"], "it says so")


def test_uploads_are_told_apart_and_end_as_done(host: Host) -> None:
    content = os.urandom(3_000_000)
    manager = host.manager()
    first = host.peer("h1", manager=manager, files={"f": content, "g": content[:100]})
    host.peer("h2", manager=manager, files={"f": content, "g": content[:100]})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(2)
    peer.ask("req f").done  # noqa: B018
    peer.ask("req g").done  # noqa: B018

    def states() -> set[object]:
        return {item["state"] for item in first.ask("transfers").items}

    wait_until(lambda: states() == {"done"}, "all are done")
    ids = [item["id"] for item in first.ask("transfers").items]
    assert len(set(ids)) == len(ids)


def test_a_target_that_cannot_be_is_told_before_anything_is_fetched(host: Host) -> None:
    manager = host.manager()
    holder = FalsePeer(manager.port, "f", CONTENT, Flaws())
    host.on_close(holder.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    (host.folder / "rx/folder").mkdir()
    (host.folder / "rx/link").symlink_to("/etc/passwd")
    write_file(host.folder / "rx/file", b"x")
    for output in ("folder", "link", "link/x", "file/x"):
        assert peer.ask(f"req f --output {output}").code == "conflict", output
    assert peer.ask("req f --output folder --replace").code == "conflict"
    assert not holder.gets


def test_a_holder_that_is_full_is_said_to_be(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("holder", "--max", "1", manager=manager, files={"f": CONTENT})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    with Raw(holder.port) as raw:
        raw.hello()
        done = peer.ctl("req", "f")
        assert done.returncode == 9
        assert "full" in done.stderr


def test_a_refusal_is_not_lost_to_what_the_refused_still_sends(host: Host) -> None:
    holder = host.peer("holder", "--max", "1", "--no-manager")
    with Raw(holder.port) as first, Raw(holder.port) as refused:
        first.hello()
        assert "full" in refused.expect_error().message  # and the end of the stream
        for _ in range(3):
            # A reset in answer to the first would break the second, and empty a slower reader's buffer.
            refused.send(b"ping 0\n")
            wait_until(lambda: not refused.unacknowledged, "taken by the other side")


@pytest.mark.needs("strace")
def test_cancelling_while_the_digest_is_checked(host: Host) -> None:
    content = os.urandom(20_000_000)
    manager = host.manager()
    host.peer("holder", manager=manager, files={"f": content})
    peer = host.peer("rx", "--activity", "off", manager=manager, prefix=slow_reads(1_000_000))
    peer.wait_peers(1)
    digest = hashlib.sha256(content).hexdigest()
    transfer = peer.ask(f"req f --no-wait --sha256 {digest}").events[0]["transfer"]
    wait_until(lambda: row(peer, transfer)["state"] == "verifying", "the digest is checked")
    peer.ask(f"cancel {transfer}").done  # noqa: B018
    assert row(peer, transfer)["state"] == "cancelled"
    assert not (host.folder / "rx/f").exists()
    assert "Traceback" not in peer.console.text()


@pytest.mark.needs("root")
def test_every_req_is_told_that_the_disk_is_full(host: Host) -> None:
    manager = host.manager()
    host.peer("holder", manager=manager, files={"f": os.urandom(16 * 2**20)})
    share = host.folder / "rx"
    share.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(share)], check=True)
    host.on_close(lambda: subprocess.call(["umount", "-l", str(share)]))
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    assert peer.ask("req f").code == "storage"
    assert peer.ask("req f").code == "storage"


@pytest.mark.needs("strace")
def test_stopping_while_what_is_held_is_hashed(host: Host) -> None:
    manager = host.manager()
    contents = {name: os.urandom(4_000_000) for name in ("a", "b")}
    peer, holders, ids = half_fetched(host, manager, contents)
    peer._prefix = slow_reads(400_000)
    peer.start()
    wait_until(lambda: row(peer, ids[0])["state"] == "verifying", "it is being hashed")
    peer.stop()
    assert "Traceback" not in peer.console.text()
    for holder in holders.values():
        holder.flaws = Flaws()
        holder.go_on.set()
    peer._prefix = []
    peer.start()
    for name, content in contents.items():
        wait_until((host.folder / "rx" / name).exists, f"{name} is complete")
        assert (host.folder / "rx" / name).read_bytes() == content
