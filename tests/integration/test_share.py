"""What a share offers while it changes, and how a finished file gets its name, with real daemons."""

from __future__ import annotations

import os
import re

import pytest

from p2pd.wire import messages as m
from tests.rig import Host, Oracle, Raw
from tests.rig.host import wait_until, write_file

CONTENT = os.urandom(200_000)


def test_a_file_that_is_still_being_copied_in_is_not_offered(host: Host) -> None:
    holder = host.peer("holder")
    with Raw(holder.port) as raw:
        raw.hello()
        with (host.folder / "holder/copy").open("wb", buffering=0) as file:
            for part in range(4):
                file.write(CONTENT[part * 50_000 : (part + 1) * 50_000])
                assert isinstance(raw.req("copy", part + 1), m.NotHave)
                assert holder.ask("files").items == []
        have = raw.expect(m.Have)
        assert have.size == len(CONTENT)
        assert raw.fetch(have, 0, len(CONTENT)) == CONTENT


def test_folders_that_are_made_moved_and_removed(host: Host) -> None:
    holder = host.peer("holder")
    share = host.folder / "holder"

    def names() -> set[str]:
        return {item["name"] for item in holder.ask("files").items if item["id"]}

    for folder in ("a", "a/b", "a/b/c"):
        write_file(share / folder / "f", folder.encode())
    wait_until(lambda: names() == {"a/f", "a/b/f", "a/b/c/f"}, "all are noticed")
    (share / "a/b").rename(share / "d")
    wait_until(lambda: names() == {"a/f", "d/f", "d/c/f"}, "the move is noticed")
    write_file(share / "d/c/g", b"g")
    wait_until(lambda: "d/c/g" in names(), "a moved folder is watched")
    outside = host.folder / "outside"
    write_file(outside / "e/f", b"from elsewhere")
    outside.rename(share / "in")
    wait_until(lambda: "in/e/f" in names(), "a folder moved in is scanned")
    (share / "d").rename(host.folder / "gone")
    wait_until(lambda: names() == {"a/f", "in/e/f"}, "a folder moved out is gone")


@pytest.mark.fault(34)
def test_a_thousand_folders_and_a_hundred_thousand_files(host: Host) -> None:
    share = host.folder / "holder"
    for folder in range(1000):
        path = share / f"{folder // 30}/{folder}"
        path.mkdir(parents=True)
        for number in range(100):
            (path / f"{number}").write_bytes(b"%d/%d" % (folder, number))
    holder = host.peer("holder", "--activity", "off")
    with Raw(holder.port) as raw:
        raw.hello()
        # Served while the first scan goes on, as soon as the file is at rest.
        raw.send(m.Req(1, "33/999/99", 0))
        have = raw.expect(m.Have)
        assert raw.fetch(have, 0, have.size) == b"999/99"
    wait_until(lambda: holder.status()["files"] == 100_000, "all are found")
    oracle = Oracle(host, [holder])
    deep = share / "7/222"
    write_file(deep / "new", CONTENT)
    with Raw(holder.port) as raw:
        raw.hello()
        raw.send(m.Req(1, "7/222/new", 0))
        raw.expect(m.Have)
        raw.send(m.Withdraw(1))
        deep.rename(share / "moved")
        raw.send(m.Req(2, "moved/new", 0))
        assert raw.expect(m.Have).size == len(CONTENT)
        (share / "moved/new").unlink()
        raw.send(m.Req(3, "moved/55", 0))
        raw.expect(m.Have)
    wait_until(lambda: holder.status()["files"] == 100_000, "the removal is noticed")
    oracle.check()


@pytest.mark.needs("strace")
def test_a_finished_file_is_on_the_disk_before_it_has_its_name(host: Host) -> None:
    manager = host.manager()
    host.peer("holder", manager=manager, files={"sub/f": CONTENT})
    log = host.folder / "trace"
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,linkat,pwrite64,pwritev2"
    prefix = ["strace", "-f", "-qq", "-y", "-o", str(log), "-e", calls, "-e", "signal=none"]
    peer = host.peer("rx", manager=manager, prefix=prefix)
    peer.wait_peers(1)
    peer.ask("req sub/f").done  # noqa: B018
    text = log.read_text()
    order = [
        max(hit.start() for hit in re.finditer(r"pwrite(?:64|v2)\(\d+<[^>]*\.part>", text)),
        next(hit.start() for hit in re.finditer(r"f(?:data)?sync\(\d+<[^>]*\.part>", text)),
        next(
            hit.start()
            for hit in re.finditer(r"renameat2\([^\n]*\.part\"[^\n]*\"f\", RENAME_NOREPLACE", text)
        ),
        max(hit.start() for hit in re.finditer(r"fsync\(\d+<[^>]*/rx/sub>", text)),
    ]
    assert order == sorted(order), text


def test_a_holder_is_not_made_to_hash_at_every_piece_size(host: Host) -> None:
    holder = host.peer("holder", files={"f": CONTENT})
    with Raw(holder.port) as raw:
        raw.hello()
        sizes = []
        for number in range(1, 21):
            have = raw.req("f", number, 2000 + number)
            assert isinstance(have, m.Have)
            sizes.append(have.piece_size)
            raw.send(m.Withdraw(number))
    assert sizes == [*range(2001, 2009), *[65536] * 12]


def test_a_req_that_was_answered_at_once_still_stands(host: Host) -> None:
    """What a holder knows by heart it answers without waiting for anything; later changes count no less."""
    holder = host.peer("holder", files={"f": CONTENT})
    assert holder.share is not None
    with Raw(holder.port) as raw:
        raw.hello()
        numbers = range(1, 4)
        for number in numbers:
            assert isinstance(raw.req("f", number), m.Have)
        for new in os.urandom(100_000), os.urandom(300_000):
            write_file(holder.share / "f", new)
            told: dict[int, int] = {}
            while told != dict.fromkeys(numbers, len(new)):  # `have` of what was before may come first
                have = raw.expect(m.Have)
                told[have.req] = have.size
