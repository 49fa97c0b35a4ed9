"""Fault 96: what must stay secret (the cookie that makes a peer the same one again) is nowhere to be read."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import pytest

from p2pd.wire import messages as m
from tests.rig import Daemon, Host, Oracle, Raw
from tests.rig.host import wait_until


def cookie_of(peer: Daemon) -> str:
    """The cookie in a peer's state folder, once it is there."""
    (path,) = wait_until(lambda: list(peer.host.folder.glob("state/p2pd/peer*rx/cookie")), "its cookie")
    text = path.read_text().strip()
    assert len(text) >= 32
    return str(text)


def proc(daemon: Daemon) -> str:
    """What other users can read of a process, and what only its own can."""
    folder = Path(f"/proc/{daemon.pid}")
    return "".join((folder / name).read_bytes().decode("utf-8", "replace") for name in ("cmdline", "environ"))


def commands(daemon: Daemon) -> str:
    """Everything that the client can be made to print of a daemon, errors too."""
    words = [
        ["status"], ["peers"], ["files"], ["transfers"], ["pieces", "f"], ["req", "f"], ["req", "nix"],
        ["req", "../state"], ["req", ".cookie"], ["cancel", "nix"], ["version"], ["help"], ["nonsense"],
    ]  # fmt: skip
    said = ""
    for each in words:
        for options in ([], ["--json"]):
            done = daemon.ctl(*options, *each)
            said += done.stdout + done.stderr
    return said


@pytest.mark.fault(96)
def test_the_cookie_is_nowhere_to_be_read(host: Host) -> None:
    manager = host.manager("--state", str(host.folder / "mstate"))
    peer = host.peer("rx", manager=manager, files={"f": b"content"})
    peer.wait_peers(0)
    cookie = cookie_of(peer)
    oracle = Oracle(host, [manager, peer])
    other = host.peer("other", manager=manager)
    other.wait_peers(1)
    # Somebody claims its id with a wrong cookie, and with what is none.
    hello = Raw(peer.port).hello()
    for wrong in (cookie[:-1] + "#", cookie + "x" * 200):
        with Raw(manager.port, table=m.MANAGER_TO_PEER) as thief:
            text = (
                f'new_peer {{"major": 1, "minor": 0, "id": "{hello.id}", "name": "thief", "port": 7,'
                f' "listen": [], "advertise": "", "cookie": "{wrong}"}}\n'
            )
            thief.send(text.encode())
            error = thief.expect_error()
            assert wrong not in error.message
            assert cookie not in error.message
    heard = ""
    with Raw(manager.port, table=m.MANAGER_TO_PEER) as spy:
        spy.send(m.NewPeer(*m.VERSION, "5" * 32, "spy", 7, ["0.0.0.0"], "", ""))
        heard += repr(spy.expect(m.Welcome)) + repr(spy.expect(m.Peers))
    said = commands(peer) + commands(manager) + commands(other)
    everything = {
        "processes": proc(manager) + proc(peer) + proc(other),
        "commands": said,
        "other peers": heard,
        "consoles": manager.console.text() + peer.console.text() + other.console.text(),
    }
    oracle.check()
    everything["consoles after it"] = manager.console.text() + peer.console.text() + other.console.text()
    for where, text in everything.items():
        assert text, where
        assert cookie not in text, where
        assert cookie[:16] not in text, where
    stored = b"".join(each.read_bytes() for each in (host.folder / "mstate").iterdir() if each.is_file())
    assert hello.id.encode() in stored, "it is remembered"
    assert cookie.encode() not in stored, "by a digest only"


@pytest.mark.fault(96)
@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_nobody_else_may_read_what_lies_in_a_state_folder(host: Host, umask: int) -> None:
    before = os.umask(umask)
    try:
        manager = host.manager("--state", str(host.folder / "mstate"))
        peer = host.peer("rx", "--state", str(host.folder / "pstate"), manager=manager, files={"f": b"f"})
        peer.wait_peers(0)
        wait_until(lambda: (host.folder / "pstate" / "cookie").exists(), "its cookie")
    finally:
        os.umask(before)
    for folder in ("mstate", "pstate"):
        path = host.folder / folder
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for each in path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # SQLite's journal, just removed
                assert stat.S_IMODE(each.stat().st_mode) & 0o077 == 0, each
    Oracle(host, [manager, peer]).check()


@pytest.mark.fault(96)
def test_a_message_that_is_printed_does_not_show_its_cookie() -> None:
    """A log line or a traceback may show a message one day."""
    said = m.NewPeer(*m.VERSION, "5" * 32, "spy", 7, ["0.0.0.0"], "", "very_secret")
    assert "very_secret" not in repr(said)
    assert "very_secret" not in repr(m.Welcome("very_secret", 30, "", ""))
