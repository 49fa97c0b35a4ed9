"""The manager as people start it: `twistd -n p2pmanager`, and raw sockets."""

import json
import os
import re
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from p2pd.peer.uplink import Uplink
from p2pd.wire.messages import NewPeer

START = "from twisted.scripts.twistd import run; run()"
LISTENING = re.compile(r"listening on (.*) port (\d+), for (.*)")


class Daemon:
    """A twistd process with its own home; ``lines`` are of its console so far."""

    def __init__(self, folder: Path, *args: str) -> None:
        environment = dict(
            os.environ, XDG_STATE_HOME=str(folder / "state"), XDG_RUNTIME_DIR=str(folder / "run")
        )
        for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
            environment.pop(name, None)
        (folder / "run").mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        self.port = 0
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, "-n", *args],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, pattern: str | re.Pattern[str]) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(pattern, line)
            if found:
                return found
        raise AssertionError("".join(self.lines) + self.process.communicate()[1])

    def end(self, number: int = signal.SIGTERM) -> Any:
        """(status, standard error) after a signal, within the 5 s that are promised."""
        began = time.monotonic()
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        self.lines += out.splitlines(keepends=True)
        assert time.monotonic() - began < 5
        assert "Traceback" not in "".join(self.lines)
        return self.process.returncode, err


class Peer:
    """A raw socket that announced itself."""

    def __init__(
        self,
        port: Any,
        number: int,
        name: str | None = None,
        cookie: str = "",
        listen: Any = ("0.0.0.0",),
        announce: Any = True,
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")
        if announce:
            fields = {"major": 1, "minor": 0, "id": f"{number:032x}", "name": name or f"p{number}"}
            fields |= {"port": 7000 + number, "listen": list(listen), "advertise": "", "cookie": cookie}
            self.say("new_peer", **fields)

    def say(self, verb: str, **fields: Any) -> None:
        self.socket.sendall(f"{verb} {json.dumps(fields)}\n".encode())

    def hear(self) -> Any:
        line = self.file.readline().decode()
        if not line:
            return None, {}
        verb, _, fields = line.partition(" {")
        return verb, json.loads("{" + fields)

    def expect(self, verb: str) -> Any:
        heard, fields = self.hear()
        assert heard == verb, fields
        return fields

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def start(tmp_path: Path) -> Any:
    made = []

    def make(*args: Any, port: Any = "0") -> Any:
        daemon = Daemon(tmp_path, "p2pmanager", "--port", port, *args)
        made.append(daemon)
        daemon.port = int(daemon.until(LISTENING)[2])
        return daemon

    yield make
    for daemon in made:
        if daemon.process.poll() is None:
            assert daemon.end() == (0, "")


def test_welcome_list_changes_and_leaving(start: Any) -> None:
    daemon = start()
    first = Peer(daemon.port, 1)
    assert first.expect("welcome")["lease"] == 30
    assert [row["name"] for row in first.expect("peers")["rows"]] == ["p1"]
    daemon.until(r"1 active peer:")
    daemon.until(r"p1 +127.0.0.1:7001 +since \d{4}-")
    began = time.monotonic()
    second = Peer(daemon.port, 2)
    second.expect("welcome")
    assert len(second.expect("peers")["rows"]) == 2
    assert [row["name"] for row in first.expect("changes")["joined"]] == ["p2"]
    assert time.monotonic() - began < 0.5
    second.say("left_peer")
    assert second.hear() == (None, {})
    assert first.expect("changes")["left"] == [f"{2:032x}"]
    third = Peer(daemon.port, 3)
    third.expect("welcome")
    first.expect("changes")
    third.close()
    assert first.expect("changes")["left"] == [f"{3:032x}"]
    first.say("list")
    assert len(first.expect("peers")["rows"]) == 1
    assert daemon.end() == (0, "")
    assert first.hear()[0] == "left_peer"
    assert first.hear() == (None, {})
    first.close()
    second.close()


def test_a_name_is_taken_and_an_old_entry_replaced(start: Any) -> None:
    daemon = start()
    first = Peer(daemon.port, 1, "lab")
    cookie = first.expect("welcome")["cookie"]
    second = Peer(daemon.port, 2, "lab")
    assert second.expect("error")["message"] == "name lab is taken"
    assert second.hear() == (None, {})
    again = Peer(daemon.port, 1, "lab", cookie)
    assert again.expect("welcome")["cookie"] == cookie
    for each in (first, second, again):
        each.close()


def test_a_lease_lapses(start: Any) -> None:
    daemon = start("--lease", "1")
    silent, alive = Peer(daemon.port, 1), Peer(daemon.port, 2)
    began = time.monotonic()
    left: list[str] = []
    while not left:
        assert time.monotonic() - began < 5
        select.select([alive.socket], [], [], 0.3)
        alive.say("ping", number=1)
        while (heard := alive.hear())[0] != "pong":
            left += heard[1].get("left", [])
    assert left == [f"{1:032x}"]
    assert time.monotonic() - began >= 1
    last = None
    while (heard := silent.hear())[0] is not None:
        last = heard[0]
    assert last == "error"
    alive.close()
    silent.close()


@pytest.mark.fault(17)
def test_a_full_manager_says_so(start: Any) -> None:
    daemon = start("--max", "2")
    peers = [Peer(daemon.port, number) for number in (1, 2)]
    for each in peers:
        each.expect("welcome")
    third = Peer(daemon.port, 3)
    assert third.expect("error") == {"code": "refused", "message": "the manager is full (2 connections)"}
    assert third.hear() == (None, {})
    for each in [*peers, third]:
        each.close()


@pytest.mark.fault(1)
def test_a_flood_without_a_line_end_is_cut_off(start: Any) -> None:
    daemon = start()
    flood = Peer(daemon.port, 1, announce=False)
    try:
        for _ in range(1600):
            flood.socket.sendall(b"x" * 65536)
    except OSError:
        pass
    flood.close()
    other = Peer(daemon.port, 2)
    other.expect("welcome")
    other.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.fault(91)
def test_signals_end_it_with_status_0(start: Any, number: int) -> None:
    daemon = start()
    silent = Peer(daemon.port, 1, announce=False)
    control = daemon.folder / "run" / "p2pd" / f"manager-{daemon.port}.sock"
    assert control.is_socket()
    assert daemon.end(number) == (0, "")
    assert not control.exists()
    silent.close()


def test_a_port_in_use_is_one_line_and_status_1(start: Any, tmp_path: Path) -> None:
    daemon = start()
    second = Daemon(tmp_path, "p2pmanager", "--port", str(daemon.port))
    out, err = second.process.communicate(timeout=20)
    assert second.process.returncode == 1
    assert err == f"p2pd: cannot listen on 127.0.0.1 port {daemon.port}: Address already in use\n"
    assert "Traceback" not in out


@pytest.mark.fault(93)
def test_a_state_folder_in_use_is_one_line_and_status_1(start: Any, tmp_path: Path) -> None:
    daemon = start("--state", str(tmp_path / "here"))
    second = Daemon(tmp_path, "p2pmanager", "--port", "0", "--state", str(tmp_path / "here"))
    _out, err = second.process.communicate(timeout=20)
    assert second.process.returncode == 1
    assert re.fullmatch(
        rf"p2pd: the state folder .*here is in use by process {daemon.process.pid}; .*\n", err
    )


def test_relative_paths_count_from_where_it_was_started(tmp_path: Path) -> None:
    (tmp_path / "rundir").mkdir()
    words = ["p2pmanager", "--port", "0", "--state", "here", "--control", "m.sock"]
    daemon = Daemon(tmp_path, "--rundir", "rundir", *words)
    daemon.until("listening on")
    assert (tmp_path / "here").is_dir()
    assert (tmp_path / "m.sock").is_socket()
    assert daemon.end() == (0, "")
    assert os.listdir(tmp_path / "rundir") == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("--port", "x"), ("--max", "0"), ("--lease", "\u0661"), ("--port", "unix:/x"), ("--state", "")],
)
@pytest.mark.fault(94)
def test_wrong_options_are_named(tmp_path: Path, option: str, value: str) -> None:
    daemon = Daemon(tmp_path, "p2pmanager", option, value)
    out, err = daemon.process.communicate(timeout=20)
    assert daemon.process.returncode == 1
    assert f"{option}: " in out + err


def test_the_control_socket_answers(start: Any) -> None:
    daemon = start()
    peer = Peer(daemon.port, 1)
    peer.expect("welcome")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(daemon.folder / "run" / "p2pd" / f"manager-{daemon.port}.sock"))
        client.sendall(b"status\npeers\n")
        client.shutdown(socket.SHUT_WR)
        lines = [json.loads(line) for line in client.makefile("rb")]
    status, item, done = lines
    assert (status["role"], status["manager"], status["peers"]) == ("manager", "none", 1)
    assert (status["port"], status["pid"]) == (daemon.port, daemon.process.pid)
    assert status["problems"] == []
    assert (item["name"], item["host"], item["port"]) == ("p1", "127.0.0.1", 7001)
    assert done["event"] == "done"
    peer.close()


def test_an_endpoint_string_listens(start: Any) -> None:
    daemon = start(port="tcp:0:interface=127.0.0.1")
    Peer(daemon.port, 1).close()


LATE = """
from twisted.application.service import Application, Service
from twisted.internet import reactor
from twisted.internet.task import deferLater
from p2pd.errors import StorageError
from p2pd.net.signals import install_signals
from p2pd.net.starting import start_or_exit, use_monotonic_clock

async def starting():
    await deferLater(reactor, 0.05)
    raise StorageError("no room")

class Failing(Service):
    def startService(self):
        start_or_exit(reactor, starting())
    def stopService(self):
        print("stopped in order", flush=True)

use_monotonic_clock(reactor)
install_signals(reactor)
application = Application("late")
Failing().setServiceParent(application)
"""


def test_a_start_that_fails_late_is_one_line_and_status_1_too(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    daemon = Daemon(tmp_path, "--pidfile", "late.pid", "--no_save", "-y", "late.py")
    out, err = daemon.process.communicate(timeout=20)
    assert daemon.process.returncode == 1
    assert err == "p2pd: no room\n"
    assert "stopped in order" in out
    assert not (tmp_path / "late.pid").exists()


HANGING = """
from twisted.application.service import Application, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from p2pd.net.signals import install_signals

class Hanging(Service):
    def startService(self):
        reactor.callWhenRunning(reactor.callLater, 0, print, "running", flush=True)
    def stopService(self):
        print("stopping", flush=True)
        return Deferred()

install_signals(reactor)
application = Application("hanging")
Hanging().setServiceParent(application)
"""


@pytest.mark.fault(91)
def test_a_second_signal_ends_at_once_and_a_hanging_stop_within_5_s(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    args = ("--pidfile", "", "--no_save", "-y", "hanging.py")
    twice, once = Daemon(tmp_path, *args), Daemon(tmp_path, *args)
    for each in (twice, once):
        each.until("running")
    twice.process.terminate()
    twice.until("stopping")
    began = time.monotonic()
    status, _err = twice.end()
    assert status == -signal.SIGTERM
    assert time.monotonic() - began < 1
    assert once.end()[0] == 0


@pytest.mark.fault(69)
@ensureDeferred  # type: ignore[untyped-decorator]
async def test_an_uplink_comes_back_to_a_manager_that_was_killed(tmp_path: Path, start: Any) -> None:
    from twisted.internet import reactor
    from twisted.internet.task import deferLater
    from twisted.internet.threads import deferToThread

    waiting: list[tuple[str, Deferred[None]]] = []

    def changed() -> None:
        for state, each in list(waiting):
            if uplink.state == state:
                waiting.remove((state, each))
                each.callback(None)

    async def until(state: Any) -> None:
        if uplink.state != state:
            each: Deferred[None] = Deferred()
            waiting.append((state, each))
            await each.addTimeout(10, reactor)

    first = await deferToThread(start, "--state", str(tmp_path / "kept"), port="0")
    cookies = [""]
    uplink = Uplink(
        reactor,
        "localhost",
        first.port,
        lambda: NewPeer(1, 0, "7" * 32, "me", 7001, ["127.0.0.1"], "", ""),
        changed,
        load_cookie=lambda: cookies[-1],
        save_cookie=cookies.append,
    )
    uplink.start()
    await uplink.when_listed().addTimeout(10, reactor)
    other = Peer(first.port, 2, listen=["127.0.0.1"])
    await deferToThread(other.expect, "welcome")
    with sqlite3.connect(tmp_path / "kept" / "peers.sqlite") as stored:
        while not stored.execute("SELECT 1 FROM peer WHERE name = 'me'").fetchall():
            await deferLater(reactor, 0.02)
    stored.close()
    first.process.kill()
    await deferToThread(first.process.communicate)
    other.close()
    await until("connecting")
    await deferToThread(start, "--state", str(tmp_path / "kept"), port=str(first.port))
    await until("connected")
    assert len(cookies) == 2  # the manager knew it again, by what it had stored
    await uplink.stop()
