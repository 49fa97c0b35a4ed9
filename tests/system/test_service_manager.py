"""What a service manager sees of the daemons: real processes, started as systemd starts them."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pytest

from tests.rig import Host
from tests.rig.host import PATIENCE

# As systemd does it: descriptors from 3 on, blocking, named, and for this process only.
PASS_ON = """
import os, socket, sys
listening = socket.socket(int(sys.argv[2]))
listening.bind((sys.argv[1], 0) if sys.argv[1] else "")
listening.listen()
if listening.fileno() != 3:
    os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="p2pd")
os.execv(sys.argv[3], sys.argv[3:])
"""


class Told:
    """$NOTIFY_SOCKET's other end, and everything it was told."""

    def __init__(self, host: Host) -> None:
        path = str(host.folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(PATIENCE)
        host.env["NOTIFY_SOCKET"] = path
        host.on_close(self.socket.close)
        self.lines: list[str] = []

    def wait(self, pattern: str) -> re.Match[str]:
        """The next line that fits."""
        while True:
            lines = self.socket.recv(4096).decode().split("\n")
            self.lines += lines
            hits = [hit for line in lines if (hit := re.fullmatch(pattern, line))]
            if hits:
                return hits[0]


@pytest.fixture
def told(host: Host) -> Told:
    return Told(host)


@pytest.mark.parametrize("end", ["signal", "left_peer"])
def test_a_peer_is_ready_alive_and_stopping(host: Host, told: Told, end: str) -> None:
    host.env["WATCHDOG_USEC"] = "900000"
    peer = host.peer("anna", wait=False)
    told.wait("READY=1")
    # Ready means: the socket is there, and answers.
    assert len(list((host.run / "p2pd").glob("peer-*.sock"))) == 1
    peer.wait_up()
    assert peer.status()["name"] == "anna"
    for _ in range(2):
        told.wait("WATCHDOG=1")
    (host.folder / "anna" / "a").write_bytes(b"a")
    told.wait("STATUS=anna: 0 peers, 1 file, 0 transfers, no manager")
    if end == "signal":
        peer.stop()
    else:
        peer.ask("left_peer")
    told.wait("STOPPING=1")
    assert peer.process.wait(PATIENCE) == 0
    assert told.lines.count("READY=1") == 1


def test_a_manager_is_ready_and_stopping(host: Host, told: Told) -> None:
    manager = host.manager(wait=False)
    told.wait("READY=1")
    manager.wait_up()
    assert manager.status()["role"] == "manager"
    assert manager.stop() == 0
    told.wait("STOPPING=1")


def test_a_daemon_that_cannot_start_is_never_ready(host: Host, told: Told) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        manager = host.manager("--host", "127.0.0.1", "--port", str(taken.getsockname()[1]), wait=False)
        assert manager.process.wait(PATIENCE) == 1
    told.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        told.wait("READY=1")


@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_sockets_that_systemd_opened(host: Host, address: str, family: int) -> None:
    """A manager and a peer on inherited sockets; the string says INET6 for both families, as in the units."""
    prefix = [sys.executable, "-c", PASS_ON, address, str(int(family))]
    manager = host.manager("--port", "systemd:domain=INET6:index=0", prefix=prefix)
    by_name = "systemd:domain=INET6:name=p2pd"
    where = f"[{address}]:{manager.port}" if ":" in address else f"{address}:{manager.port}"
    files = {"bison.exe": os.urandom(3_000_000)}
    anna = host.peer("anna", "--port", by_name, manager=where, prefix=prefix, files=files)
    assert anna.status()["host"] == address
    boris = host.peer("boris", "--host", address, manager=where)
    boris.wait_peers(1)
    done = boris.ask("req bison.exe").done
    assert Path(done["path"]).read_bytes() == files["bison.exe"]
    assert [source["name"] for source in done["sources"]] == ["anna"]
    assert [each.stop() for each in (boris, anna, manager)] == [0, 0, 0]


@pytest.mark.parametrize("port", ["systemd:domain=INET:index=0", "systemd:domain=INET:name=p2pd"])
def test_a_socket_that_nobody_passed_on_is_one_sentence(host: Host, port: str) -> None:
    manager = host.manager("--port", port, wait=False)
    assert manager.process.wait(PATIENCE) == 1
    manager.console.wait("p2pd: .*no such socket was inherited; does the .socket unit run")


def test_an_inherited_socket_of_another_kind_is_one_sentence(host: Host) -> None:
    prefix = [sys.executable, "-c", PASS_ON, "", str(int(socket.AF_UNIX))]
    manager = host.manager("--port", "systemd:domain=UNIX:index=0", wait=False, prefix=prefix)
    assert manager.process.wait(PATIENCE) == 1
    manager.console.wait("p2pd: what was inherited is not a listening TCP socket")
