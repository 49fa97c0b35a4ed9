"""Names and paths: what is no plain file under a canonical name of the share is never given away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator

import pytest

from p2pd.errors import UsageError
from p2pd.share.paths import MAX_COMPONENT, MAX_NAME, canonical_name, is_canonical
from p2pd.wire import messages as m
from tests.rig import Daemon, Host, Oracle, Raw
from tests.rig.behind import behind_proxy
from tests.rig.host import wait_until, write_file

NOT_CANONICAL = ["..", "../x", "a/../../x", "/etc/passwd", "./a", "a/./b", "a//b", "a/", "/", ".", "", "a\0b"]


def assert_lines_are_records(daemon: Daemon) -> None:
    """Every line of the console begins as twistd begins a record: no name broke one in two."""
    for line in daemon.console.lines:
        assert re.match(r"\d{4}-\d\d-\d\dT", line), f"half a record: {line!r}"


# 21


@pytest.mark.fault(21)
@pytest.mark.parametrize("name", NOT_CANONICAL)
def test_what_is_not_canonical_is_no_name(name: str) -> None:
    assert not is_canonical(name)
    with pytest.raises(UsageError):
        canonical_name(name)


@pytest.mark.fault(21)
def test_a_peer_that_asks_for_such_a_name_is_refused_and_closed(host: Host) -> None:
    peer = host.peer("h", files={"a/b": b"content"})
    oracle = Oracle(host, [peer], {"a/b": b"content"})
    for name in NOT_CANONICAL:
        with Raw(peer.port) as raw:
            raw.hello()
            raw.send(b"req " + json.dumps({"req": 1, "name": name, "piece_size": 0}).encode() + b"\n")
            error = raw.expect_error()  # and the end of the connection
            assert "name" in error.message
    oracle.check()


@pytest.mark.fault(21)
def test_such_a_name_is_sent_to_nobody(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("h", manager=manager, files={"a/b": b"content"})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    oracle = Oracle(host, [peer, holder], {"a/b": b"content"})
    for name in NOT_CANONICAL[:-2]:
        assert peer.ask(f"req {json.dumps(name)}").code == "usage"
        assert peer.ask(f"req a/b --output {json.dumps(name)}").code == "usage"
    assert peer.ctl("req", "../x").returncode == 2
    assert peer.ask("transfers").items == []
    assert holder.ask("transfers").items == []
    oracle.check()


# 22


@pytest.mark.fault(22)
def test_nothing_is_served_through_a_symbolic_link(host: Host) -> None:
    manager = host.manager()
    holder = host.peer("h", manager=manager, files={"sub/real": b"shared"})
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    oracle = Oracle(host, [holder, peer], {"sub/real": b"shared"})
    share = holder.share
    assert share is not None
    secret = oracle.canary / "canary/secret.txt"
    (share / "leaf").symlink_to(secret)
    (share / "relative").symlink_to(os.path.relpath(secret, share))
    (share / "inside").symlink_to("sub/real")
    (share / "folder").symlink_to(oracle.canary / "canary")
    (share / "same").symlink_to("sub")
    (share / "proc").symlink_to("/proc/self/root")
    linked = ["leaf", "relative", "inside", "folder/secret.txt", "folder/deep/er/key", "same/real"]
    linked += ["proc/etc/passwd", "folder", "same"]
    with Raw(holder.port) as raw:
        raw.hello()
        for number, name in enumerate(linked):
            assert isinstance(raw.req(name, number), m.NotHave), name
    assert peer.ctl("req", "leaf").returncode == 4
    assert peer.ctl("req", "folder/secret.txt").returncode == 4
    assert [item["name"] for item in holder.ask("files").items] == ["sub/real"]
    oracle.check()


# 25


@pytest.mark.fault(25)
@pytest.mark.needs("root")  # to make a device
def test_what_is_no_regular_file_is_not_had_and_hangs_nothing(host: Host) -> None:
    holder = host.peer("h", files={"plain": b"shared"})
    oracle = Oracle(host, [holder], {"plain": b"shared"})
    share = holder.share
    assert share is not None
    names = ["fifo", "zero", "disk", "socket", "folder"]
    os.mkfifo(share / "fifo")
    os.mknod(share / "zero", 0o20666, os.makedev(1, 5))
    os.mknod(share / "disk", 0o60600, os.makedev(7, 99))
    (share / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(share / "socket"))
        # More questions than the daemon has threads: none may be stuck in an open.
        with Raw(holder.port) as raw:
            raw.hello()
            for number in range(40):
                name = names[number % len(names)]
                assert isinstance(raw.req(name, number), m.NotHave), name
        assert [item["name"] for item in holder.ask("files").items] == ["plain"]
        oracle.check()


# 27


@pytest.mark.fault(27)
def test_hidden_and_own_files_are_never_listed_or_served(host: Host) -> None:
    manager = host.manager()
    share = host.folder / "h"
    hidden = [".secret", ".git/config", "a/.hidden/x", "a/.x.part"]
    for name in hidden:
        write_file(share / name, b"hidden")
    # State and control socket in the middle of what is shared.
    state, control = share / "own/state", share / "own/ctl.sock"
    holder = host.peer("h", "--state", str(state), "--control", str(control), manager=manager, wait=False)
    holder.port = int(holder.console.wait(r"listening on .* port (\d+), for").group(1))
    wait_until(control.exists, "the control socket")
    control_link = holder.socket_path
    control_link.parent.mkdir(mode=0o700, exist_ok=True)
    control_link.symlink_to(control)
    write_file(share / "own/plain", b"shared")
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    holder.wait_files(1)
    oracle = Oracle(host, [holder, peer], {"own/plain": b"shared"})
    # A partial file of an unfinished transfer (its only source says a size and sends nothing).
    (share / ".p2pd").mkdir(exist_ok=True)
    write_file(share / ".p2pd/0123456789ab.part", b"partial")
    state_files = [f"own/state/{each.name}" for each in state.iterdir()]
    assert {"own/state/id", "own/state/cookie", "own/state/lock"} <= set(state_files)
    asked = [*hidden, ".p2pd/0123456789ab.part", "own/ctl.sock", "own/state", *state_files]
    with Raw(holder.port) as raw:
        raw.hello()
        for number, name in enumerate(asked):
            assert isinstance(raw.req(name, number), m.NotHave), name
        assert isinstance(raw.req("own/plain", 999), m.Have)
    for name in (".secret", "a/.hidden/x", "own/state/cookie"):
        assert peer.ctl("req", name).returncode == 4, name
    # Nor is anything put there on another's behalf.
    write_file(peer.share / "own/state/id" if peer.share else share, b"f" * 32)
    peer.wait_files(1)
    identity = (state / "id").read_bytes()
    assert holder.ask("req own/state/id --replace").code == "conflict"
    assert (state / "id").read_bytes() == identity
    assert [item["name"] for item in holder.ask("files").items] == ["own/plain"]
    oracle.check()


@pytest.mark.fault(27)
def test_the_share_itself_cannot_be_the_state_folder(host: Host) -> None:
    oracle = Oracle(host, [host.manager()])
    peer = host.peer("rx", "--state", str(host.folder / "rx"), wait=False)
    assert peer.process.wait(30) == 1
    peer.console.wait("p2pd: the state folder .* may not be the share")
    oracle.check()


# 30


@pytest.mark.fault(30)
def test_a_line_feed_in_a_name_breaks_no_record(host: Host) -> None:
    manager = host.manager()
    names = [
        "two\nlines",
        "esc\x1b[31mred",
        "cr\rlf\r\n2020-01-01T00:00:00+0000 [-] forged",
        "c1\x9bm",
        "u\u2028v",
    ]
    files = {name: b"content%d" % number for number, name in enumerate(names)}
    holder = host.peer("h", manager=manager, files=files)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    oracle = Oracle(host, [holder, peer], files)
    listed = holder.ctl("files")
    assert listed.returncode == 0
    lines = [line for line in listed.stdout.splitlines() if line.strip()]
    rows = [line for line in lines if re.search(r"\\x0a|\\x1b|\\x0d|\\x9b|\\u2028", line)]
    assert len(rows) == len(names), listed.stdout
    assert len(lines) <= len(names) + 1, "more lines than records and a heading"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028]", listed.stdout), repr(listed.stdout)
    as_json = holder.ctl("--json", "files").stdout.splitlines()
    assert sorted(json.loads(line)["name"] for line in as_json) == sorted(names)
    # They are served, with a line of console each time.
    with Raw(holder.port) as raw:
        raw.hello("raw")
        for number, name in enumerate(names):
            have = raw.req(name, number)
            assert isinstance(have, m.Have)
            assert raw.fetch(have, 0, 8) == files[name]
        # No peer of ours would: `error` has one line.
        raw.send(
            rb'error {"code": "protocol", "message": "oops\n2020-01-01T00:00:00+0000 [-] forged"}' + b"\n"
        )
        raw.expect_end()
    holder.console.wait(r"sent piece 0 of two\\x0alines to raw")
    # Asked for from here: names that a line can hold.
    assert peer.ctl("req", names[1]).returncode == 0
    peer.console.wait(r"received piece 0 of esc\\x1b\[31mred")
    assert peer.ctl("req", "no such\x1b[31m").returncode == 4
    for daemon in (holder, peer, manager):
        assert_lines_are_records(daemon)
    oracle.check()


# 31


@pytest.mark.fault(31)
def test_how_long_a_name_may_be() -> None:
    longest = "/".join(["é" * 127] * 15)
    assert canonical_name(longest) == longest
    assert is_canonical("x" * MAX_COMPONENT)
    assert not is_canonical("x" * (MAX_COMPONENT + 1))
    assert not is_canonical("é" * 128)
    assert is_canonical("/".join(["x"] * (MAX_NAME // 2)))
    assert not is_canonical("/".join(["x"] * (MAX_NAME // 2 + 1)))


@pytest.mark.fault(31)
def test_names_of_255_bytes_work_and_paths_over_4096_are_refused(host: Host) -> None:
    content = os.urandom(100_000)
    manager = host.manager()
    names = ["n" * 255, "日" * 85, "/".join(["d" * 250] * 14)]
    holder = host.peer("h", manager=manager)
    share = holder.share
    assert share is not None
    for name in names:
        with _folder_of(share, name) as folder:
            new = os.open("new", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=folder)
            os.write(new, content)
            os.close(new)
            os.rename("new", name.rpartition("/")[2], src_dir_fd=folder, dst_dir_fd=folder)
    holder.wait_files(len(names))
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    oracle = Oracle(host, [holder, peer], dict.fromkeys(names, content))
    for name in names:
        assert peer.ctl("req", name).returncode == 0, name
        assert peer.share is not None
        assert (peer.share / name).read_bytes() == content
    too_long = "/".join(["d" * 200] * 21)
    for name in ("n" * 256, too_long):
        done = peer.ctl("req", name)
        assert done.returncode == 2
        assert "longer than" in done.stderr
        with Raw(holder.port) as raw:
            raw.hello()
            raw.send(b"req " + json.dumps({"req": 1, "name": name, "piece_size": 0}).encode() + b"\n")
            assert "name" in raw.expect_error().message
    oracle.check()


@contextlib.contextmanager
def _folder_of(share: os.PathLike[str], name: str) -> Iterator[int]:
    """The folder in which ``name`` lies, made; step by step, because the path may be too long for one."""
    fd = os.open(share, os.O_RDONLY)
    for part in name.split("/")[:-1]:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, dir_fd=fd)
        inner = os.open(part, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    try:
        yield fd
    finally:
        os.close(fd)


# 35


@pytest.mark.fault(35)
def test_one_name_with_two_contents_is_a_conflict_and_never_mixed(host: Host) -> None:
    manager = host.manager()
    contents = {"h1": os.urandom(3_000_000), "h2": os.urandom(3_000_000), "h3": os.urandom(2_000_000)}
    contents["h4"] = contents["h1"]
    holders = [host.peer(name, manager=manager, files={"f": contents[name]}) for name in contents]
    ids = {holder.args[1]: holder.ask("files").items[0]["id"] for holder in holders}
    assert len(set(ids.values())) == 3
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(4)
    oracle = Oracle(host, [peer, *holders]).warm()
    result = peer.ask("req f")
    assert result.code == "conflict"
    variants = {each["id"]: each for each in result.last["variants"]}
    assert {each: sorted(variants[each]["holders"]) for each in variants} == {
        ids["h1"]: ["h1", "h4"],
        ids["h2"]: ["h2"],
        ids["h3"]: ["h3"],
    }
    assert variants[ids["h3"]]["size"] == 2_000_000
    assert peer.share is not None
    assert not (peer.share / "f").exists()
    done = peer.ctl("req", "f")
    assert done.returncode == 7
    assert all(each in done.stdout + done.stderr for each in (*ids.values(), *contents))
    for name in ("h1", "h2", "h3"):
        picked = peer.ask(f"req f --id {ids[name]} --output from-{name}").done
        assert picked["id"] == ids[name]
        assert {each["name"] for each in picked["sources"]} <= {k for k in ids if ids[k] == ids[name]}
        assert (peer.share / f"from-{name}").read_bytes() == contents[name]
    oracle.check()


@pytest.mark.fault(35)
def test_one_content_hashed_in_two_ways_is_no_conflict_and_both_serve(host: Host) -> None:
    manager = host.manager()
    content = os.urandom(4_000_000)
    # The wire is slow, so that one alone cannot have sent all before the other one has hashed anew.
    first, _ = behind_proxy(host, manager, "h1", "--piece-size", "96Ki", files={"f": content}, rate=1_000_000)
    second, _ = behind_proxy(
        host, manager, "h2", "--piece-size", "100K", files={"f": content}, rate=1_000_000
    )
    assert first.ask("files").items[0]["id"] != second.ask("files").items[0]["id"]
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(2)
    oracle = Oracle(host, [peer, first, second], {"f": content}).warm()
    done = peer.ask("req f").done
    by_name = {each["name"]: each["bytes"] for each in done["sources"]}
    assert sum(by_name.values()) == len(content)
    assert min(by_name["h1"], by_name["h2"]) > 0
    assert peer.share is not None
    assert (peer.share / "f").read_bytes() == content
    oracle.check()
