"""The socket on disk: modes, stale ones, things in its place, its end."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from twisted.internet import threads

from p2pd.control import session
from p2pd.control.server import ControlService, Limits
from p2pd.errors import RefusedError

if TYPE_CHECKING:
    from tests.unit.control.conftest import Rig

    Test = TypeVar("Test", bound=Callable[..., object])

    def async_test(test: Test) -> Test: ...
else:
    from pytest_twisted import ensureDeferred as async_test


@pytest.mark.fault(83)
@async_test
async def test_closed_to_others_from_the_first_moment(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def chmod(path: bytes, mode: int) -> None:  # what Twisted calls after the bind
        seen.append(stat.S_IMODE(os.lstat(path).st_mode))

    monkeypatch.setattr(os, "chmod", chmod)
    before = os.umask(0)
    try:
        await rig.serve()
        assert os.umask(0) == 0  # put back
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert stat.S_IMODE(rig.path.stat().st_mode) == 0o600


@pytest.mark.fault(83)
@async_test
async def test_another_user_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.serve()
    if os.geteuid() == 0:
        rig.path.parent.chmod(0o755)
        rig.path.chmod(0o666)
        code = f"""
import os, socket
os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect({str(rig.path)!r})
print(s.recv(65536).decode(), end=""); print(s.recv(1))
"""
        said = await threads.deferToThread(
            subprocess.run, [sys.executable, "-I", "-c", code], stdout=subprocess.PIPE, text=True, check=True
        )
        assert '"code": "refused"' in said.stdout
        assert said.stdout.endswith("b''\n")
    monkeypatch.setattr(session, "_peer_uid", lambda handle: os.geteuid() + 4242)
    assert [event["code"] for event in await rig.client().rest()] == ["refused"]


@pytest.mark.fault(84)
@async_test
async def test_a_dead_daemons_socket_is_replaced(rig: Rig) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(rig.path))
    left.listen()
    left.close()
    await rig.serve()
    client = rig.client()
    client.send(b"version\n")
    assert (await client.event())["event"] == "done"


@pytest.mark.fault(84)
@async_test
async def test_a_live_daemons_socket_is_not(rig: Rig) -> None:
    await rig.serve()
    with pytest.raises(RefusedError, match="Another daemon"):
        await rig.serve()
    client = rig.client()
    client.send(b"version\n")
    assert (await client.event())["event"] == "done"


@pytest.mark.fault(85)
@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling", "datagram"])
@async_test
async def test_what_is_no_socket_stays(rig: Rig, kind: str) -> None:
    if kind == "file":
        rig.path.write_text("precious")
    elif kind == "folder":
        rig.path.mkdir()
    elif kind == "datagram":
        other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        other.bind(str(rig.path))
    else:
        target = rig.path.with_name("target")
        if kind == "link":
            target.write_text("precious")
        rig.path.symlink_to(target)
    before = rig.path.lstat()
    with pytest.raises(RefusedError):
        await rig.serve()
    assert rig.path.lstat() == before
    if kind == "datagram":
        other.close()


@pytest.mark.fault(85)
@async_test
async def test_a_path_that_is_too_long(rig: Rig) -> None:
    rig.path = rig.path.parent / ("x" * 100) / "a.sock"
    with pytest.raises(RefusedError, match="longer than 107"):
        await rig.serve()
    assert not rig.path.parent.exists()


@async_test
async def test_stop_removes_its_own_socket_only(rig: Rig) -> None:
    first = await rig.serve()
    rig.path.unlink()
    second = await rig.serve()
    await first.stop()
    assert rig.path.exists()
    await second.stop()
    assert not rig.path.exists()
    await second.stop()


@async_test
async def test_a_folder_that_went_away_does_not_hinder_the_end(rig: Rig) -> None:
    service = await rig.serve()
    rig.path.unlink()
    await service.stop()


@async_test
async def test_the_socket_is_gone_before_left_peer_ends(rig: Rig) -> None:
    service = await rig.serve()
    client, other = rig.client(), rig.client()
    client.send(b"left_peer\n")
    other.send(b"req a\n")
    await rig.handlers.until(lambda: rig.handlers.started == ["a"])
    reading = client.rest()
    await service.stop()
    assert not rig.path.exists()
    assert [event["event"] for event in await reading] == ["done"]
    events = await other.rest()
    assert [event["event"] for event in events] == ["started", "failed"]
    assert events[-1]["code"] == "failed"
    assert rig.handlers.cancelled == ["a"]


@async_test
async def test_stop_does_not_wait_for_who_does_not_read(rig: Rig) -> None:
    service = await rig.serve(Limits(farewell=0.2))
    client = rig.client()
    rig.handlers.burst = lambda emit: emit({"event": "note", "message": "x" * 3_000_000})
    client.send(b"req a\n")
    await rig.handlers.until(lambda: rig.handlers.started == ["a"])
    await service.stop()
    assert rig.handlers.cancelled == ["a"]


@async_test
async def test_too_many_clients_are_told(rig: Rig) -> None:
    await rig.serve(Limits(sessions=1))
    first = rig.client()
    first.send(b"version\n")
    await first.event()
    assert [event["code"] for event in await rig.client().rest()] == ["refused"]
    first.socket.close()


@async_test
async def test_a_folder_in_the_default_place_is_closed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = rig.path.parent / "run"
    folder.mkdir(mode=0o755)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    rig.path = folder / "peer-7001.sock"
    await rig.serve()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    service = ControlService(None, "x.sock", object(), "peer")
    assert service.path == str(tmp_path / "x.sock")
