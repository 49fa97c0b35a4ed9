"""What `req` does, sentence by sentence of docs/cli.md, with real daemons."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess

import pytest

from p2pd.wire import messages as m
from tests.rig import FalsePeer, Flaws, Host, Raw
from tests.rig.host import wait_until, write_file

CONTENT = os.urandom(300_000)


def test_a_name_that_is_not_canonical_is_sent_to_nobody(host: Host) -> None:
    manager = host.manager()
    holder = FalsePeer(manager.port, "x", b"x", Flaws())
    host.on_close(holder.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    for name in ("../x", "/x", "./x", "a//x", "x/", "a/../x", "."):
        done = peer.ctl("req", "--json", "--", name)
        assert done.returncode == 2, name
        assert json.loads(done.stdout)["code"] == "usage"
    assert holder.connections == 0


def test_hidden_names_are_not_found(host: Host) -> None:
    peer = host.peer("rx")
    for name in (".x", "a/.x", ".p2pd/x.part"):
        done = peer.ctl("req", "--json", name)
        assert done.returncode == 4
        assert json.loads(done.stdout)["code"] == "not-found"


def test_nobody_has_it_and_one_could_not_be_reached(host: Host) -> None:
    manager = host.manager()
    gone = FalsePeer(manager.port, "x", b"x", Flaws())
    gone._listener.shutdown(socket.SHUT_RDWR)
    host.on_close(gone.close)
    host.peer("other", manager=manager)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(2)
    done = peer.ctl("req", "--json", "nothing")
    assert done.returncode == 4
    failed = json.loads(done.stdout.splitlines()[-1])
    assert failed["code"] == "not-found"
    assert "1 of 2" in failed["message"]
    assert peer.share is not None
    wait_until(lambda: not list((peer.share or host.folder).glob(".p2pd/*")), "nothing of it is left behind")


def test_here_already(host: Host) -> None:
    manager = host.manager()
    host.peer("holder", manager=manager, files={"same": CONTENT, "other": CONTENT})
    peer = host.peer("rx", manager=manager, files={"same": CONTENT, "other": b"mine", "only": b"here"})
    peer.wait_peers(1)
    assert peer.ask("req same").done["sources"] == []
    assert peer.ask("req only").done["path"] == str(peer.share) + "/only"
    failed = peer.ask("req other")
    assert failed.code == "conflict"
    variants = {tuple(row["holders"]): row for row in failed.last["variants"]}
    assert set(variants) == {("holder",), ("rx",)}
    assert variants["rx",]["size"] == 4
    # The one of here is chosen by its id; the other one by --replace or --output.
    assert peer.ask(f"req other --id {variants['rx',]['id']}").done["id"] == variants["rx",]["id"]
    assert (host.folder / "rx/other").read_bytes() == b"mine"
    assert peer.ask("req other --output copy/of").done["name"] == "copy/of"
    assert (host.folder / "rx/copy/of").read_bytes() == CONTENT
    assert peer.ask("req other --replace").done["id"] == variants["holder",]["id"]
    assert (host.folder / "rx/other").read_bytes() == CONTENT


def test_sha256_is_checked_before_it_gets_its_name(host: Host) -> None:
    manager = host.manager()
    host.peer("holder", manager=manager, files={"f": CONTENT})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    wrong = peer.ctl("req", "f", "--sha256", "0" * 64, "--json")
    assert wrong.returncode == 6
    assert json.loads(wrong.stdout.splitlines()[-1])["code"] == "verify-failed"
    assert not (host.folder / "rx/f").exists()
    peer.ask(f"req f --sha256 {hashlib.sha256(CONTENT).hexdigest().upper()}").done  # noqa: B018
    assert (host.folder / "rx/f").read_bytes() == CONTENT
    assert peer.ask(f"req f --sha256 {'1' * 64}").code == "verify-failed"


def test_from_asks_only_those(host: Host) -> None:
    manager = host.manager()
    for name in ("a", "b", "c"):
        host.peer(name, manager=manager, files={"f": os.urandom(500_000) if name == "c" else CONTENT})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(3)
    done = peer.ask("req f --from a b").done
    assert {source["name"] for source in done["sources"]} <= {"a", "b"}
    assert (host.folder / "rx/f").read_bytes() == CONTENT
    assert peer.ask("req f --from nobody --output g").code == "not-found"


def test_a_holder_that_hashes_is_waited_for(host: Host) -> None:
    size = 3 * 2**30
    manager = host.manager()
    holder = host.peer("holder", manager=manager)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    # Sparse: large to hash, yet nothing to store.
    with (host.folder / "holder/large.new").open("wb") as file:
        file.truncate(size)
    with Raw(holder.port) as raw:
        raw.hello()
        wait_until(lambda: any(i["name"] == "large.new" for i in holder.ask("files").items), "it is listed")
        raw.send(m.Req(1, "large.new", 1 << 20))
        hashing = raw.expect(m.Hashing)
        assert hashing.size == size
        assert raw.expect(m.Have).size == size


def test_a_holder_that_comes_up_meanwhile_is_used(host: Host) -> None:
    content = os.urandom(4_000_000)
    manager = host.manager()
    slow = FalsePeer(manager.port, "f", content, Flaws(rate=100_000), peer="slow")
    host.on_close(slow.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    events = peer.events("req f")
    for event in events:
        if event["event"] == "progress" and event["bytes"]:
            break
    host.peer("fast", manager=manager, files={"f": content})
    *_, done = events
    assert done["event"] == "done"
    sources = {source["name"]: source["bytes"] for source in done["sources"]}
    assert sources["fast"] > sources["slow"] > 0
    assert sum(sources.values()) == len(content)
    assert (host.folder / "rx/f").read_bytes() == content


def test_of_a_file_that_is_there_in_no_time_everything_is_told(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("holder", manager=manager, files={"f": b"short"})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    events = list(peer.events("req f"))
    assert [event["event"] for event in events] == ["started", "sources", "progress", "done"]
    assert events[1]["sources"] == [{"name": "holder", "host": "127.0.0.1", "port": holder.port}]
    assert (events[2]["bytes"], events[2]["size"]) == (5, 5)


def test_no_wait_returns_once_it_would_survive_a_kill(host: Host) -> None:
    content = os.urandom(2_000_000)
    manager = host.manager()
    holder = FalsePeer(manager.port, "f", content, Flaws(after=0, then="stall"), peer="holder")
    host.on_close(holder.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    done = peer.ctl("req", "f", "--no-wait", "--json")
    assert done.returncode == 0
    (started,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert started["event"] == "started"
    peer.kill()
    holder.flaws = Flaws()
    holder.go_on.set()
    peer.start()
    path = host.folder / "rx/f"
    wait_until(path.exists, "the transfer goes on by itself")
    assert path.read_bytes() == content
    ids = {item["id"]: item["state"] for item in peer.ask("transfers").items if item["direction"] == "in"}
    wait_until(lambda: peer.ask("transfers").items[0]["state"] == "done", "done")
    assert list(ids) == [started["transfer"]]


def test_ctrl_c_leaves_the_transfer_running(host: Host) -> None:
    content = os.urandom(2_000_000)
    manager = host.manager()
    holder = FalsePeer(manager.port, "f", content, Flaws(after=500_000, then="stall"), peer="holder")
    host.on_close(holder.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    events = peer.events("req f")
    for event in events:
        if event["event"] == "progress" and event["bytes"]:
            break
    events.close()  # the client goes away
    holder.go_on.set()
    path = host.folder / "rx/f"
    wait_until(path.exists, "the transfer goes on")
    assert path.read_bytes() == content


def test_pause_resume_and_cancel(host: Host) -> None:
    content = os.urandom(3_000_000)
    manager = host.manager()
    holder = FalsePeer(manager.port, "f", content, Flaws(rate=300_000), peer="holder")
    host.on_close(holder.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    transfer = peer.ask("req f --no-wait").events[0]["transfer"]

    def row() -> dict[str, object]:
        return next(item for item in peer.ask("transfers").items if item["id"] == transfer)

    wait_until(lambda: row()["state"] == "running" and row()["bytes"], "it runs")
    peer.ask(f"pause {transfer}").done  # noqa: B018
    assert row()["state"] == "paused"
    peer.stop()
    peer.start()
    peer.wait_peers(1)
    wait_until(lambda: row()["bytes"], "what is held is hashed again")
    assert row()["state"] == "paused"
    held = row()["bytes"]
    assert isinstance(held, int)
    assert 0 < held < len(content)
    peer.ask(f"resume {transfer}").done  # noqa: B018
    wait_until(lambda: row()["state"] == "running", "it goes on")
    peer.ask(f"cancel {transfer}").done  # noqa: B018
    assert row()["state"] == "cancelled"
    wait_until(lambda: not list((host.folder / "rx/.p2pd").glob(f"{transfer}*")), "what came is removed")
    assert peer.ask(f"cancel {transfer}").code == "not-found"
    assert not (host.folder / "rx/f").exists()


def test_the_kept_manifest_survives_a_restart(host: Host) -> None:
    manager = host.manager()
    host.peer("holder", "--piece-size", "100K", manager=manager, files={"f": CONTENT})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    file_id = peer.ask("req f").done["id"]
    assert peer.ask("pieces f").items[0]["piece_size"] == 100_000
    peer.stop()
    peer.start()
    peer.wait_files(1)
    assert peer.ask("files").items[0]["id"] == file_id
    (host.folder / "rx/f").rename(host.folder / "rx/moved")
    wait_until(
        lambda: [i["name"] for i in peer.ask("files").items if i["id"]] == ["moved"], "the move is noticed"
    )
    assert peer.ask("files").items[0]["id"] == file_id


def test_peers_go_on_while_the_manager_is_away(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("holder", manager=manager, files={"f": CONTENT})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    manager.kill()
    wait_until(lambda: peer.status()["manager"] == "connecting", "the loss is noticed")
    peer.ask("req f").done  # noqa: B018
    assert (host.folder / "rx/f").read_bytes() == CONTENT
    assert holder.status()["problems"]


def test_a_new_changed_or_removed_file_is_noticed(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("holder", manager=manager)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    write_file(host.folder / "holder/sub/new", CONTENT)
    holder.wait_files(1)
    first = peer.ask("req sub/new").done["id"]
    write_file(host.folder / "holder/sub/new", CONTENT[::-1])
    wait_until(lambda: holder.ask("files").items[0]["id"] not in (None, first), "the change is noticed")
    assert peer.ask("req sub/new").code == "conflict"
    (host.folder / "holder/sub/new").unlink()
    wait_until(lambda: not holder.ask("files").items, "the removal is noticed")
    with Raw(holder.port) as raw:
        raw.hello()
        assert isinstance(raw.req("sub/new"), m.NotHave)


def test_a_standing_req_is_answered_when_the_file_appears(host: Host) -> None:
    holder = host.peer("holder")
    with Raw(holder.port) as raw:
        raw.hello()
        assert isinstance(raw.req("later"), m.NotHave)
        write_file(host.folder / "holder/later", CONTENT)
        have = raw.expect(m.Have)
        assert (have.name, have.size) == ("later", len(CONTENT))
        assert raw.fetch(have, 1000, 5000) == CONTENT[1000:6000]


def test_a_full_peer_says_so(host: Host) -> None:
    peer = host.peer("holder", "--max", "2")
    with Raw(peer.port) as first, Raw(peer.port) as second:
        first.hello()
        second.hello()
        with Raw(peer.port) as third:
            error = third.expect_error()
            assert error.code == "refused"
            assert "full" in error.message
        assert isinstance(first.req("x"), m.NotHave)


def test_both_sides_list_a_transfer_as_done(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("holder", manager=manager, files={"f": CONTENT})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    peer.ask("req f").done  # noqa: B018
    (row,) = peer.ask("transfers").items
    assert (row["direction"], row["state"], row["bytes"], row["size"]) == ("in", "done", 300_000, 300_000)
    assert row["sources"][0]["name"] == "holder"
    wait_until(
        lambda: [row["state"] for row in holder.ask("transfers").items] == ["done"], "it is done there"
    )
    (row,) = holder.ask("transfers").items
    assert (row["direction"], row["bytes"], row["sources"][0]["name"]) == ("out", 300_000, "rx")


def test_left_peer_removes_the_socket_and_leaves_the_list(host: Host) -> None:
    manager = host.manager()
    peer = host.peer("rx", manager=manager)
    other = host.peer("other", manager=manager)
    other.wait_peers(1)
    done = peer.ctl("left_peer", "--json")
    assert done.returncode == 0
    assert not peer.socket_path.exists()
    assert peer.process.wait(10) == 0
    other.wait_peers(0)


@pytest.mark.parametrize("option", ["--no-wait", ""])
def test_a_read_only_share_serves_and_refuses_to_fetch(host: Host, option: str) -> None:
    manager = host.manager()
    host.peer("holder", manager=manager, files={"f": CONTENT})
    share = host.folder / "rx"
    write_file(share / "own", CONTENT)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    peer.wait_files(1)
    (share / ".p2pd").write_text("a file where the folder should be")
    failed = peer.ask(f"req f {option}")
    assert failed.code == "storage"
    with Raw(peer.port) as raw:
        raw.hello()
        have = raw.req("own")
        assert isinstance(have, m.Have)
        assert raw.fetch(have, 0, 1000) == CONTENT[:1000]


@pytest.mark.needs("nc")
def test_nc_is_a_complete_client(host: Host) -> None:
    manager = host.manager()
    host.peer("holder", manager=manager, files={"sub dir/a b.bin": CONTENT})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    said = subprocess.run(
        ["nc", "-N", "-U", str(peer.socket_path)], input="req 'sub dir/a b.bin'\nnonsense\npeers\n",
        text=True, capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert [line["event"] for line in lines if line["event"] in ("done", "failed")] == [
        "done",
        "failed",
        "done",
    ]
    assert (host.folder / "rx/sub dir/a b.bin").read_bytes() == CONTENT
