"""Names taken for options or refused by other systems, names that are none, and very many names."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pd.portable import unportable
from p2pd.wire import messages as m
from tests.rig import Host, Oracle, Raw
from tests.rig.host import wait_until, write_file

# 32

PORTABLE = ["-rf", "--replace", "--json", "--help", "-h", "-", "a;b", "$(id)", "`id`", "a b", "NULL", "x.nul"]
NOT_PORTABLE = {
    "a:b": "':'",
    "what?": "'?'",
    "a\\b": r"'\\'",
    "sub/<x>": "'<'",
    "NUL": "device",
    "nul.txt": "device",
    "dir/aux/f": "device",
    "COM1": "device",
    "lpt9 .log": "device",
    "trailing.": "dot",
    "dir./f": "dot",
    "trailing ": "space",
}


@pytest.mark.fault(32)
def test_which_names_other_systems_do_not_take() -> None:
    assert [name for name in PORTABLE if unportable(name)] == []
    for name, why in NOT_PORTABLE.items():
        assert why in str(unportable(name)), name
    assert unportable("a\x1fb") is not None


@pytest.mark.fault(32)
def test_a_name_is_never_taken_for_an_option(host: Host) -> None:
    names = [*PORTABLE, *NOT_PORTABLE]
    files = {name: name.encode() * 3 for name in names}
    manager = host.manager()
    holder = host.peer("h", manager=manager, files=files)
    peer, other = host.peer("rx", manager=manager), host.peer("rx2", manager=manager)
    for each in (peer, other):
        each.wait_peers(2)
    oracle = Oracle(host, [holder, peer, other], files).warm()
    assert peer.share is not None
    assert other.share is not None
    # By the socket: a word that begins with a dash is a name only behind `--`, and by no way an option.
    for line in ("req -rf", "req -x", "req --", "pieces -rf", "cancel -rf", "help --replace"):
        assert peer.ask(line).code == "usage", line
    for line in ("req a:b --output -rf", "req a:b --id --", "req --output --replace -- a:b"):
        assert peer.ask(line).code == "usage", line
    assert peer.ask("req -- -rf --replace").code == "usage", "two words behind `--`"
    assert peer.ask("cancel -- -rf").code == "not-found"
    assert peer.ask("pieces -- --replace").code == "not-found"
    assert [each.name for each in peer.share.iterdir()] == [".p2pd"]
    for name in names:
        result = peer.ask(f"req -- {shlex.quote(name)}")
        assert result.done["name"] == name
        assert (peer.share / name).read_bytes() == files[name]
        notes = [event["message"] for event in result.events if event["event"] == "note"]
        assert len(notes) == (name in NOT_PORTABLE), (name, notes)
        assert all(NOT_PORTABLE[name] in note for note in notes)
    # By the client: the same words, whatever they are.
    for name in ("-rf", "--replace", "--json", "-h", "$(id)", "a:b", "NUL"):
        done = other.ctl("req", "--", name)
        assert done.returncode == 0, (name, done.stderr)
        assert (other.share / name).read_bytes() == files[name]
        assert ("Windows does not take this name" in done.stderr) == (name in NOT_PORTABLE), done.stderr
        assert other.ctl("pieces", "--", name).returncode == 0
    assert other.ctl("req", "-rf").returncode == 2
    assert other.ctl("req", "--output=-out", "--", "-rf").returncode == 0
    assert (other.share / "-out").read_bytes() == files["-rf"]
    # What gets another name on the way is told nothing.
    assert "Windows" not in other.ctl("req", "--output", "plain", "a\\b").stderr
    oracle.check()


# 33


@pytest.mark.fault(33)
def test_names_that_are_not_utf8_are_skipped_and_counted(host: Host) -> None:
    share = host.folder / "h"
    for name in ("plain", "sub/deep/inner", "\u00e9t\u00e9"):
        write_file(share / name, name.encode())
    raw_share = os.fsencode(share)
    bad = [b"\xff", b"a\xfeb", b"caf\xe9", b"sub/\x80\x81", b"sub/deep/\xc3(", b"\xed\xa0\x80 surrogate"]
    for path in bad:
        Path(os.fsdecode(raw_share + b"/" + path)).write_bytes(b"unreachable")
    lost = raw_share + b"/lost \xff folder"
    os.makedirs(lost + b"/in it")
    Path(os.fsdecode(lost + b"/in it/file")).write_bytes(b"unreachable")
    manager = host.manager()
    holder = host.peer("h", manager=manager)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    holder.wait_files(3)
    oracle = Oracle(host, [holder, peer], {"plain": b"plain"}).warm()

    def count() -> int:
        told = [each for each in holder.status()["problems"] if "not UTF-8" in each]
        return int(told[0].split()[0]) if told else 0

    wait_until(lambda: count() == len(bad) + 1, "all are counted")  # a folder is one, with all in it
    names = sorted(item["name"] for item in holder.ask("files").items)
    assert names == ["plain", "sub/deep/inner", "\u00e9t\u00e9"]
    assert "7 names in the share are not UTF-8" in holder.ctl("status").stdout
    # New ones are noticed, and renaming one to a proper name makes it a file.
    Path(os.fsdecode(raw_share + b"/sub/new \xff")).write_bytes(b"x")
    wait_until(lambda: count() == len(bad) + 2, "the new one is counted")
    os.rename(raw_share + b"/caf\xe9", raw_share + "/caf\u00e9".encode())
    wait_until(lambda: count() == len(bad) + 1, "it has a name now")
    holder.wait_files(4)
    assert peer.ctl("req", "caf\u00e9").returncode == 0
    # The scan goes on behind them, and no name that a peer can send leads to one.
    write_file(share / "sub/deep/late", b"late")
    holder.wait_files(5)
    with Raw(holder.port) as raw:
        raw.hello()
        for number, name in enumerate(("\ufffd", "caf\ufffd", "lost \ufffd folder/in it/file")):
            assert isinstance(raw.req(name, number), m.NotHave), name
        raw.send(b'req {"req": 9, "name": "\\udcff", "piece_size": 0}\n')
        assert raw.expect_error().code
    oracle.check()


# 34


@pytest.fixture
def deep(host: Host) -> Iterator[Path]:
    """A share whose folders are too deep for a program that recurses to remove them."""
    share = host.folder / "h"
    share.mkdir()
    yield share
    subprocess.run(["rm", "-rf", *host.folder.iterdir()], check=True)


def make_deep(share: Path, depth: int) -> str:
    """A file so many folders down; its name."""
    fd = os.open(share, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    file = os.open("f", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
    os.write(file, b"deep down")
    os.close(file)
    os.close(fd)
    return "d/" * depth + "f"


@pytest.mark.fault(34)
def test_a_file_a_thousand_folders_down_is_shared_and_fetched(host: Host, deep: Path) -> None:
    name = make_deep(deep, 1000)
    manager = host.manager()
    holder = host.peer("h", manager=manager)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    holder.wait_files(1)
    oracle = Oracle(host, [holder, peer], {name: b"deep down"}).warm()
    assert holder.ask("files").items[0]["name"] == name
    assert peer.ask(f"req {name}").done["size"] == 9
    assert peer.share is not None
    assert (peer.share / name).read_bytes() == b"deep down"
    # It is watched to the bottom, and forgotten when its top goes.
    write_file(deep / ("d/" * 1000 + "g"), b"new")
    holder.wait_files(2)
    (deep / "d").rename(host.folder / "gone")
    wait_until(lambda: holder.status()["files"] == 0, "the tree is gone")
    assert holder.status()["problems"] == []
    oracle.check()


@pytest.mark.fault(34)
def test_a_long_list_of_files_holds_nobody_up(host: Host) -> None:
    share = host.folder / "h"
    for folder in range(20):
        (share / f"folder {folder}").mkdir(parents=True)
        fd = os.open(share / f"folder {folder}", os.O_RDONLY)
        for number in range(1000):
            os.close(os.open(f"{number:0200}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
        os.close(fd)
    write_file(share / "zz", b"the last one")
    holder = host.peer("h", "--activity", "off")
    wait_until(lambda: holder.status()["files"] == 20_001, "all are found")
    oracle = Oracle(host, [holder], {"zz": b"the last one"})
    listing = holder.events("files")
    first = next(listing)
    # It waits for its reader, with no more than a page of it in memory; others are served meanwhile.
    before = holder.rss()
    assert holder.status()["files"] == 20_001
    with Raw(holder.port) as raw:
        raw.hello()
        have = raw.req("zz")
        assert isinstance(have, m.Have)
        assert raw.fetch(have, 0, 12) == b"the last one"
    more = [holder.events("files") for _ in range(10)]
    heads = [next(each)["name"] for each in more]
    assert holder.status()["files"] == 20_001
    assert holder.rss() < before + 16 * 2**20, "each list has 5 MB"
    names = [first["name"], *(event["name"] for event in listing if event["event"] == "item")]
    assert names == sorted(names)
    assert len(names) == len(set(names)) == 20_001
    for each in more:
        each.close()
    assert heads == [names[0]] * 10
    oracle.check()


@pytest.mark.fault(34)
@pytest.mark.needs("strace")
def test_status_is_answered_while_the_share_is_scanned(host: Host) -> None:
    share = host.folder / "h"
    for folder in range(60):
        for number in range(5):
            write_file(share / f"{folder:02}/{number}", b"%d" % folder)
    trace = host.folder / "trace"
    # A slow disk: each folder takes a while to be read.
    inject = ["-e", "trace=getdents64", "-e", "inject=getdents64:delay_enter=50000"]
    holder = host.peer("h", prefix=["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(trace), *inject])
    oracle = Oracle(host, [holder])
    seen: list[int] = []
    while not seen or seen[-1] < 300:
        seen.append(holder.status()["files"])
    assert seen == sorted(seen)
    assert [count for count in seen if 0 < count < 300], "none was answered while it was scanned"
    assert "DELAYED" in trace.read_text()
    oracle.check()
