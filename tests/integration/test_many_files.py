"""The benchmark of many files does what it says, on few."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from benchmarks.many_files import Found, fill, report, start
from benchmarks.rivals import free_port
from tests.rig import Host


@pytest.fixture
def deep(host: Host) -> Iterator[Host]:
    yield host
    subprocess.run(["rm", "-rf", str(host.folder / "share")], check=True)


def test_a_start_is_watched_until_all_is_hashed(deep: Host, capsys: pytest.CaptureFixture[str]) -> None:
    name = fill(deep.folder / "share", 300, 50)
    assert (deep.folder / "share" / name).read_bytes() == b"150" * 20
    found = start(deep, free_port(), name, 301)
    assert 0 < found.status < found.served < found.hashed
    assert found.status < found.scanned <= found.hashed
    assert min(found.longest, found.listing, found.listed, found.rss) > 0
    report("title", found, 301)
    assert "start to `status`: 0." in capsys.readouterr().out or found.status >= 1


def test_a_missed_must_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert report("good", Found(status=0.9, served=0.9, longest=0.09), 1)
    assert "MISSED" not in capsys.readouterr().out
    for bad in (Found(status=1.1), Found(served=1.1), Found(longest=0.11), Found(listing=0.11)):
        assert not report("bad", bad, 1)
        assert capsys.readouterr().out.count("MISSED") == 1
