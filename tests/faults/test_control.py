"""The control socket: whose it is, what lies in its place, and the state folder's lock."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig import Daemon, Host, Oracle
from tests.rig.host import wait_until
from tests.rig.oracle import tree_digest

NOBODY = 65534


def start_refused(host: Host, role: str, *args: str) -> str:
    """Start a daemon that must not start: its one sentence, after exit 1."""
    kind = host.manager if role == "p2pmanager" else host.peer
    daemon: Daemon = kind(*(() if role == "p2pmanager" else ("refused",)), *args, wait=False)
    assert daemon.process.wait(30) == 1, daemon.console.text()
    daemon.console.wait("p2pd: ")
    wait_until(lambda: not daemon.console.alive, "the end of the console")
    sentences = [line for line in daemon.console.lines if line.startswith("p2pd: ")]
    assert len(sentences) == 1, daemon.console.text()
    assert "Traceback" not in daemon.console.text()
    assert "listening on" not in daemon.console.text()
    return sentences[0]


def connect_as_nobody(path: Path) -> str:
    """What another user hears, or the name of the exception. Forked: Python may be in root's home."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(path))
                with contextlib.suppress(BrokenPipeError):  # turned away before it could ask
                    client.sendall(b"status\n")
                    client.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):  # after the last byte
                    while data := client.recv(65536):
                        os.write(writing, data)
        except BaseException as error:
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


# 83


@pytest.mark.fault(83)
@pytest.mark.needs("root")
def test_another_user_is_turned_away_by_the_folder_and_by_the_socket(host: Host) -> None:
    daemons = [host.manager(), host.peer("rx")]
    oracle = Oracle(host, daemons)
    # Everything above the daemons' own folder is open to all: it is that folder which keeps others out.
    host.folder.chmod(0o755)
    host.run.chmod(0o755)
    for daemon in daemons:
        folder = daemon.socket_path.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(daemon.socket_path.stat().st_mode) == 0o600
        assert connect_as_nobody(daemon.socket_path) == "PermissionError"
    folder.chmod(0o755)
    for daemon in daemons:
        assert connect_as_nobody(daemon.socket_path) == "PermissionError"
        daemon.socket_path.chmod(0o666)
        answers = [json.loads(line) for line in connect_as_nobody(daemon.socket_path).splitlines()]
        assert [(each["event"], each["code"]) for each in answers] == [("failed", "refused")]
        assert str(NOBODY) in answers[0]["message"]
        daemon.console.wait(f"uid {NOBODY} turned away")
        assert daemon.ask("status").done["pid"] == daemon.pid
    folder.chmod(0o700)
    oracle.check()


# 84


def on_port(daemon: Daemon) -> None:
    """Start it on the same port the next time."""
    daemon.args[daemon.args.index("--port") + 1] = str(daemon.port)


@pytest.mark.fault(84)
def test_the_socket_that_a_killed_daemon_left_is_replaced(host: Host) -> None:
    content = os.urandom(100_000)
    manager, peer = host.manager(), host.peer("rx", files={"f": content})
    oracle = Oracle(host, [manager, peer], {"f": content})
    for daemon in (manager, peer):
        on_port(daemon)
        path = daemon.socket_path
        before = path.stat().st_ino, path.stat().st_ctime_ns
        daemon.kill()
        assert path.is_socket(), "kill -9 leaves the socket"
        assert daemon.ctl("status").returncode == 3
        daemon.start()
        daemon.console.wait("replaced the control socket that a killed daemon left")
        assert (path.stat().st_ino, path.stat().st_ctime_ns) != before
        assert daemon.ctl("status").returncode == 0
    oracle.relinked().check()


@pytest.mark.fault(84)
def test_a_lock_that_names_a_living_process_blocks_nobody(host: Host) -> None:
    state = host.folder / "st"
    peer = host.peer("rx", "--state", str(state))
    assert (state / "lock").read_text().strip() == str(peer.pid)
    identity = (state / "id").read_text()
    peer.kill()
    (state / "lock").write_text(f"{os.getpid()}\n")
    peer.start()
    assert (state / "id").read_text() == identity
    Oracle(host, [peer]).check()


@pytest.mark.fault(84)
@pytest.mark.parametrize("role", ["p2ppeer", "p2pmanager"])
def test_a_state_folder_in_use_is_refused(host: Host, role: str) -> None:
    state = host.folder / "st"
    args = ("--state", str(state))
    first = host.peer("rx", *args) if role == "p2ppeer" else host.manager(*args)
    oracle = Oracle(host, [first])
    before = {each.name for each in state.iterdir()}
    sentence = start_refused(host, role, *args)
    assert str(state) in sentence
    assert str(first.pid) in sentence
    assert "--state" in sentence
    assert {each.name for each in state.iterdir()} == before
    assert first.socket_path.is_socket()
    oracle.check()


@pytest.mark.fault(84)
def test_two_daemons_do_not_fetch_into_one_folder(host: Host) -> None:
    content = os.urandom(200_000)
    manager = host.manager()
    host.peer("h", manager=manager, files={"f": content})
    first = host.peer("rx", manager=manager)
    first.wait_peers(1)
    first.ask("req f").done  # noqa: B018
    second = host.peer("rx", "--state", str(host.folder / "other"), "--name", "second", manager=manager)
    second.wait_peers(2)
    oracle = Oracle(host, [first], {"f": content, "g": content})
    second.console.wait("another daemon fetches into")
    second.wait_files(1)  # to serve is fine
    assert second.ask("req f --output g").code == "refused"
    assert second.ctl("req", "f", "--output", "g").returncode == 9
    first.ask("req f --output g").done  # noqa: B018
    oracle.check()


# 85


def _file(path: Path) -> None:
    path.write_text("precious")


def _link_to_file(path: Path) -> None:
    _file(path.with_name("target"))
    path.symlink_to("target")


def _link_to_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path.with_name("s")))
    path.symlink_to("s")


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _folder(path: Path) -> None:
    path.mkdir()
    _file(path / "inner")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.fault(85)
@pytest.mark.parametrize("role", ["p2ppeer", "p2pmanager"])
@pytest.mark.parametrize(
    ("lay", "word"),
    [
        (_file, "not a socket"),
        (_link_to_file, "symbolic link"),
        (_link_to_socket, "symbolic link"),
        (_dangling, "symbolic link"),
        (_folder, "not a socket"),
        (_fifo, "not a socket"),
    ],
)
def test_what_lies_in_the_sockets_place_stays(
    host: Host, role: str, lay: Callable[[Path], None], word: str
) -> None:
    folder = host.folder / "ctl"
    folder.mkdir(mode=0o700)
    oracle = Oracle(host, [])
    lay(folder / "c")
    before = tree_digest(folder)
    sentence = start_refused(host, role, "--control", str(folder / "c"))
    assert word in sentence
    assert str(folder / "c") in sentence
    assert tree_digest(folder) == before
    oracle.check()


@pytest.mark.fault(85)
@pytest.mark.parametrize("role", ["p2ppeer", "p2pmanager"])
def test_a_socket_path_that_is_too_long_is_refused(host: Host, role: str) -> None:
    oracle = Oracle(host, [])
    path = host.folder / ("x" * 60) / ("y" * 60)
    assert "longer than 107 bytes" in start_refused(host, role, "--control", str(path))
    assert not path.parent.exists()
    oracle.check()


@pytest.mark.fault(85)
def test_a_socket_that_another_daemon_answers_on_is_left_to_it(host: Host) -> None:
    path = host.folder / "c"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    host.on_close(listener.close)
    before = path.stat().st_ino
    assert "Another daemon answers" in start_refused(host, "p2ppeer", "--control", str(path))
    assert path.stat().st_ino == before
    Oracle(host, []).check()
