"""Operation: signals in the middle of a transfer, two starts, and options that are wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from functools import partial
from typing import Any

import pytest
from twisted.python import usage

from p2pd.manager.tap import Options as ManagerOptions
from p2pd.peer.tap import Options as PeerOptions
from tests.faults.test_control import on_port, start_refused
from tests.rig import Daemon, FalsePeer, Flaws, Host, Oracle, Raw
from tests.rig.host import BIN, wait_until
from tests.rig.oracle import tree_digest

STOPPING = 5.0
"""Seconds within which a daemon that is told to stop is gone."""

# 91


@pytest.mark.fault(91)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_transfer_keeps_what_came(host: Host, number: int) -> None:
    content = os.urandom(4 * 2**20)
    manager = host.manager()
    holder = FalsePeer(manager.port, "f", content, Flaws(rate=1_000_000), peer="holder")
    host.on_close(holder.close)
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(1)
    share = peer.share
    assert share is not None
    oracle = Oracle(host, [peer], {"f": content})
    stopped, began, last = False, 0.0, {}
    for event in peer.events("req f"):
        last = event
        if event["event"] == "progress" and event["bytes"] > 600_000 and not stopped:
            stopped, began = True, time.monotonic()
            os.kill(peer.pid, number)
    assert peer.process.wait(30) == 0
    assert time.monotonic() - began < STOPPING
    assert stopped
    assert last["event"] == "failed"
    assert "next start" in last["message"]
    assert not peer.socket_path.exists()
    assert not (share / "f").exists()
    before = holder.gets_before()
    assert before
    holder.flaws.rate = None
    peer.start()
    wait_until((share / "f").exists, "it goes on after the new start")
    assert (share / "f").read_bytes() == content
    fetched = sum(get.length for get in holder.gets[before:])
    assert fetched <= len(content) - 500_000, "what came is not fetched again"
    oracle.relinked()
    oracle.check()


@pytest.mark.fault(91)
@pytest.mark.parametrize("role", ["p2ppeer", "p2pmanager"])
def test_a_second_signal_ends_at_once(host: Host, role: str) -> None:
    manager = host.manager()
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(0)
    daemon = peer if role == "p2ppeer" else manager
    on_port(daemon)
    other = manager if role == "p2ppeer" else peer
    oracle = Oracle(host, [other])
    for _ in range(10):
        # Somebody who never closes makes it wait for its farewell.
        idle = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(3)]
        raw = Raw(daemon.port) if role == "p2ppeer" else None
        if raw is not None:
            raw.hello()
        wait_until(lambda: daemon.fds() > 8, "the connections are taken")
        os.kill(daemon.pid, signal.SIGTERM)
        wait_until(lambda: _refuses(daemon.port), "it is stopping")
        os.kill(daemon.pid, signal.SIGTERM)
        if daemon.process.wait(30) == -signal.SIGTERM:
            break
        # On a busy machine we may have been too late: it was done with its farewell.
        assert daemon.process.returncode == 0
        for each in idle:
            each.close()
        daemon.start()
    assert daemon.process.wait(30) == -signal.SIGTERM
    for each in idle:
        each.close()
    daemon.start()
    oracle.daemons.append(daemon)
    oracle.relinked().check()


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


# 93


@pytest.mark.fault(93)
@pytest.mark.parametrize("role", ["p2ppeer", "p2pmanager"])
def test_the_same_port_twice(host: Host, role: str) -> None:
    first = host.peer("rx") if role == "p2ppeer" else host.manager()
    oracle = Oracle(host, [first])
    sentence = start_refused(host, role, "--port", str(first.port))
    assert f"port {first.port}" in sentence
    assert "in use" in sentence
    oracle.check()
    assert first.socket_path.exists()


@pytest.mark.fault(93)
def test_the_same_folder_twice(host: Host) -> None:
    first = host.peer("refused", files={"f": b"content"})
    oracle = Oracle(host, [first], {"f": b"content"})
    sentence = start_refused(host, "p2ppeer")
    assert "in use" in sentence
    assert "refused" in sentence  # the folder's name
    oracle.check()


@pytest.mark.fault(93)
@pytest.mark.parametrize("second", ["p2ppeer", "p2pmanager"])
@pytest.mark.parametrize("first", ["p2ppeer", "p2pmanager"])
@pytest.mark.parametrize("shared", ["--port", "--state", "--control"])
def test_two_daemons_that_would_share_something(host: Host, first: str, second: str, shared: str) -> None:
    place = host.folder / "place"
    args = () if shared == "--port" else (shared, str(place))
    make = host.manager if first == "p2pmanager" else partial(host.peer, "first")
    daemon: Daemon = make(*args, wait=False)
    daemon.port = int(daemon.console.wait(r"listening on .* port (\d+), for").group(1))
    path = place if shared == "--control" else daemon.socket_path
    wait_until(path.exists, "its socket")
    before = path.stat().st_ino, path.stat().st_ctime_ns
    kept = tree_digest(place) if shared == "--state" else ""
    word = str(daemon.port) if shared == "--port" else str(place)
    sentence = start_refused(host, second, shared, word)
    assert word in sentence
    assert re.search("in use|Another daemon", sentence)
    assert daemon.process.poll() is None
    assert (path.stat().st_ino, path.stat().st_ctime_ns) == before
    answer = host.ctl("--socket", str(path), "--json", "status")
    assert json.loads(answer.stdout)["pid"] == daemon.pid
    if shared == "--state":
        assert tree_digest(place) == kept
    assert "Traceback" not in daemon.console.text()


@pytest.mark.fault(93)
def test_of_many_that_start_at_one_moment_one_gets_the_socket(host: Host) -> None:
    path = host.folder / "c"
    args = ["--port", "0", "--control", str(path)]
    many = [Daemon(host, "p2pmanager", args, wait=False) for _ in range(6)]
    host.daemons += many
    for each in many:
        each.console.wait("listening on|p2pd: ")
    alive = [each for each in many if "listening on" in each.console.text()]
    for each in many:
        if each not in alive:
            assert each.process.wait(30) == 1
            each.console.wait("p2pd: (Another daemon answers on|The control socket .* cannot be made)")
    assert len(alive) == 1
    answer = host.ctl("--socket", str(path), "--json", "status")
    assert json.loads(answer.stdout)["pid"] == alive[0].pid


# 94

BOTH = [
    (("--port", "65536"), "--port"),
    (("--port", "-1"), "--port"),
    (("--port", "seven"), "--port"),
    (("--port", "1_0"), "--port"),
    (("--port", "٧٠٠١"), "--port"),
    (("--port", ""), "--port"),
    (("--port", "unix:/tmp/x"), "--port"),
    (("--host", "no such host"), "--host"),
    (("--host", ""), "--host"),
    (("--host", "127.0.0.1:80"), "--host"),
    (("--host", "300.1.1.1"), "--host"),
    (("--max", "0"), "--max"),
    (("--max", "-5"), "--max"),
    (("--max", "many"), "--max"),
    (("--max", "99999999999"), "--max"),
    (("--max", "²"), "--max"),
    (("--state", ""), "--state"),
    (("--control", ""), "--control"),
    (("--colour", "red"), "colour"),
    (("extra",), "extra"),
]
OF_PEER = [
    (("--manager", "localhost"), "--manager"),
    (("--manager", "localhost:0"), "--manager"),
    (("--manager", "localhost:99999"), "--manager"),
    (("--manager", "::1:12000"), "--manager"),
    (("--manager", ""), "--manager"),
    (("--name", ""), "--name"),
    (("--name", "two\nlines"), "--name"),
    (("--name", "x" * 256), "--name"),
    (("--dir", ""), "--dir"),
    (("--advertise", "0.0.0.0"), "--advertise"),
    (("--advertise", "somewhere"), "--advertise"),
    (("--activity", "maybe"), "--activity"),
    (("--piece-size", "0"), "--piece-size"),
    (("--piece-size", "1X"), "--piece-size"),
    (("--piece-size", "10"), "--piece-size"),
    (("--piece-size", "99999999999999999999"), "--piece-size"),
    (("--no-manager=1",), "no-manager"),
]
OF_MANAGER = [
    (("--lease", "0"), "--lease"),
    (("--lease", "1.5"), "--lease"),
    (("--lease", "soon"), "--lease"),
    (("--lease", "99999999"), "--lease"),
]
OPTIONS: dict[str, Any] = {"p2ppeer": PeerOptions, "p2pmanager": ManagerOptions}
WRONG = [("p2ppeer", *row) for row in BOTH + OF_PEER] + [("p2pmanager", *row) for row in BOTH + OF_MANAGER]


@pytest.mark.fault(94)
@pytest.mark.parametrize(("role", "args", "word"), WRONG)
def test_a_wrong_option_is_named(role: str, args: tuple[str, ...], word: str) -> None:
    options: Any = OPTIONS[role]()
    before = ["--port", "7001"] if role == "p2ppeer" and "--port" not in args else []
    with pytest.raises(usage.UsageError, match=word):
        options.parseOptions([*before, *args])


@pytest.mark.fault(94)
@pytest.mark.parametrize(
    ("role", "args", "word"),
    [
        ("p2ppeer", ("--max", "0"), "--max"),
        ("p2ppeer", ("--dir", ""), "--dir"),
        ("p2ppeer", ("--piece-size", "1X"), "--piece-size"),
        ("p2ppeer", (), "--port"),
        ("p2pmanager", ("--lease", "soon"), "--lease"),
        ("p2pmanager", ("--port", "99999"), "--port"),
    ],
)
def test_a_daemon_with_a_wrong_option_opens_nothing(
    host: Host, role: str, args: tuple[str, ...], word: str
) -> None:
    running = host.manager()
    oracle = Oracle(host, [running])
    before = tree_digest(host.folder)
    port = [] if role == "p2pmanager" or word == "--port" else ["--port", "0", "--no-manager"]
    done = subprocess.run(
        [str(BIN / "twistd"), "-n", role, *port, *args],
        cwd=host.folder, env=host.env, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert word in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert "listening" not in done.stderr + done.stdout
    assert tree_digest(host.folder) == before
    oracle.check()
