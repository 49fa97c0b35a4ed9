"""``p2pctl doctor``: every check provoked for real, where one process can do that to another."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2pd.cli import doctor
from p2pd.net import health
from tests.rig import Daemon, Host
from tests.rig.host import BIN, PATIENCE, wait_until
from tests.rig.lan import Lan

KEYS = {"check", "state", "message", "remedy"}


def examine(host: Host, *args: str, prefix: tuple[str, ...] = ()) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and the findings; the text for people is made too, and says the same."""
    runs = [
        subprocess.run(
            [*prefix, str(BIN / "p2pctl"), *args, *option, "doctor"],
            cwd=host.folder, env=host.env, text=True, capture_output=True, timeout=PATIENCE, check=False,
        )
        for option in (["--json"], [])
    ]  # fmt: skip
    status = runs[0].returncode
    findings = [json.loads(line) for line in runs[0].stdout.splitlines()]
    assert [run.stderr for run in runs] == ["", ""]
    assert runs[1].returncode == status
    assert status == int(any(each["state"] == "problem" for each in findings))
    for each in findings:
        assert set(each) - {"daemon"} == KEYS
        assert each["state"] in ("ok", "warning", "problem")
        assert each["message"]
        assert bool(each["remedy"]) == (each["state"] != "ok"), each
        assert each["check"] in runs[1].stdout
    return status, findings


def of(findings: list[dict[str, Any]], check: str) -> dict[str, Any]:
    (found,) = [each for each in findings if each["check"] == check]
    return found


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_without_a_daemon_it_looks_at_the_machine_and_says_how_to_start(host: Host) -> None:
    status, findings = examine(host)
    assert status == 1
    assert [each["check"] for each in findings] == [
        "control",
        "socket",
        "inotify",
        "files",
        "clock",
        "daemon",
    ]
    assert of(findings, "daemon")["state"] == "problem"
    assert "twistd -n p2ppeer --port 7001" in of(findings, "daemon")["remedy"]


def test_where_all_is_well(host: Host) -> None:
    manager = host.manager()
    peer = host.peer("rx", manager=manager)
    peer.wait_peers(0)
    status, findings = examine(host, "--port", str(peer.port))
    assert status == 0
    for check in ("version", "manager", "name", "reach", "share", "events", "descriptors", "problems"):
        assert of(findings, check)["state"] == "ok", of(findings, check)
    status, findings = examine(host)
    assert status == 0
    assert "2 daemons run" in of(findings, "daemon")["message"]
    names = {each.get("daemon") for each in findings}
    assert names == {None, "rx", f"manager-{manager.port}"}
    assert [each["check"] for each in peer.ask("doctor").items] == [
        "manager", "name", "reach", "share", "room", "state", "events", "descriptors", "problems",
    ]  # fmt: skip


def test_a_killed_daemons_socket(host: Host) -> None:
    peer = host.peer("rx")
    peer.kill()
    status, findings = examine(host)
    assert status == 1
    assert of(findings, "socket")["state"] == "warning"
    assert str(peer.socket_path) in of(findings, "socket")["remedy"]
    status, findings = examine(host, "--port", str(peer.port))
    assert of(findings, "daemon")["state"] == "problem"


def test_a_control_folder_that_is_none(host: Host) -> None:
    (host.run / "p2pd").write_text("a file")
    _, findings = examine(host)
    assert of(findings, "control")["state"] == "problem"


def test_no_manager_and_a_name_that_is_taken(host: Host) -> None:
    manager = host.manager()
    host.peer("anna", manager=manager).wait_peers(0)
    share = host.folder / "second"
    share.mkdir()
    second = host.peer("second", "--name", "anna", manager=manager)
    second.console.wait("name anna is taken")
    status, findings = examine(host, "--port", str(second.port))
    assert status == 1
    assert of(findings, "name")["state"] == "problem"
    assert "--name" in of(findings, "name")["remedy"]
    assert of(findings, "manager")["state"] == "ok"
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = free.getsockname()[1]
    lonely = host.peer("lonely", manager=f"127.0.0.1:{nowhere}")
    lonely.console.wait("cannot be reached")
    status, findings = examine(host, "--port", str(lonely.port))
    assert status == 1
    assert of(findings, "manager")["state"] == "problem"
    remedy = of(findings, "manager")["remedy"]
    assert remedy == f"start it: twistd -n p2pmanager --port {nowhere}, or correct --manager"


@pytest.mark.needs("root", "mount")
def test_a_share_that_cannot_be_written_and_a_disk_that_is_nearly_full(host: Host) -> None:
    with mounted(host.folder / "rx", "size=1m") as share:
        (share / "f").write_bytes(b"content")
        subprocess.run(["mount", "-o", "remount,ro", str(share)], check=True)
        peer = host.peer("rx")
        status, findings = examine(host, "--port", str(peer.port))
        assert status == 0, "a share that is only served is no problem"
        assert of(findings, "share")["state"] == "warning"
        assert "cannot be written" in of(findings, "share")["message"]
        assert of(findings, "room")["state"] == "ok", "none is needed"
        subprocess.run(["mount", "-o", "remount,rw", str(share)], check=True)
        status, findings = examine(host, "--port", str(peer.port))
        assert status == 1
        assert of(findings, "room")["state"] == "problem", "1 MB is nearly none"
        subprocess.run(["mount", "-o", "remount,rw,size=100m", str(share)], check=True)
        status, findings = examine(host, "--port", str(peer.port))
        assert status == 0
        assert of(findings, "share")["state"] == "ok"
        assert of(findings, "room")["state"] == "warning"
        peer.kill()


def test_too_few_descriptors(host: Host) -> None:
    prefix = ("sh", "-c", 'ulimit -n 200; exec "$@"', "sh")
    peer = host.peer("rx", "--max", "150", prefix=prefix)
    manager = host.manager("--max", "500", prefix=prefix)
    for daemon, needed in ((peer, 250), (manager, 600)):
        _, findings = examine(host, "--port", str(daemon.port), prefix=prefix)
        assert of(findings, "descriptors")["state"] == "warning"
        assert f"LimitNOFILE={needed}" in of(findings, "descriptors")["remedy"]
        assert of(findings, "files")["state"] == "warning", "the shell's own limit, for the next start"
        for check in ("descriptors", "files"):
            assert "the hard limit, which is 200" in of(findings, check)["remedy"]
            assert "ulimit" not in of(findings, check)["remedy"], "it could not raise it"


def test_descriptors_that_the_shell_may_raise(host: Host) -> None:
    prefix = ("sh", "-c", 'ulimit -S -n 200; ulimit -H -n 4096; exec "$@"', "sh")
    peer = host.peer("rx", "--max", "150", prefix=prefix)
    _, findings = examine(host, "--port", str(peer.port), prefix=prefix)
    assert of(findings, "descriptors")["remedy"].startswith("ulimit -n 250 ")
    assert of(findings, "files")["remedy"].startswith("ulimit -n 4096,")


@pytest.mark.needs("root", "unshare")
def test_no_events(host: Host) -> None:
    """A user namespace of its own, with no inotify instance to be had."""
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c",
              'echo 0 >/proc/sys/user/max_inotify_instances; exec "$@"', "sh")  # fmt: skip
    peer = host.peer("rx", prefix=prefix)
    wait_until(lambda: peer.status()["problems"], "it says so")
    _, findings = examine(host, "--socket", str(peer.socket_path))
    assert of(findings, "events")["state"] == "warning"
    assert "sysctl" in of(findings, "events")["remedy"]
    assert of(findings, "problems")["state"] == "ok", "it is not said twice"


def test_a_file_of_settings_that_was_bad(host: Host) -> None:
    file = host.folder / "p2pd.toml"
    file.write_text("")
    peer = host.peer("rx", "--config", str(file))
    file.write_text("maxx = 1")
    os.kill(peer.pid, 1)
    peer.console.wait("settings of before are kept")
    status, findings = examine(host, "--port", str(peer.port))
    assert status == 0, "a warning is no problem"
    assert "maxx" in of(findings, "problems")["message"]


@pytest.mark.needs("root", "ip")
def test_whether_others_can_connect(host: Host) -> None:
    lan = Lan(2)
    host.on_close(lan.close)
    there = lan.addresses[0]

    def manager_and_peer(name: str, *args: str) -> Daemon:
        peer = host.peer(name, *args, manager=f"{there}:12000", prefix=lan.on(0))
        peer.console.wait("connected to the manager")
        return peer

    host.daemons.append(Daemon(host, "p2pmanager", ["--host", "0.0.0.0"], prefix=lan.on(0)))
    good = manager_and_peer("good", "--host", "0.0.0.0", "--port", "7001")

    def reach(peer: Daemon) -> dict[str, Any]:
        return of(examine(host, "--port", str(peer.port))[1], "reach")

    assert reach(good)["state"] == "ok"
    assert "no peer on another machine is known" in reach(good)["message"]
    bad = manager_and_peer("bad", "--host", "0.0.0.0", "--port", "7002", "--advertise", "10.77.0.99")
    assert reach(bad)["state"] == "problem"
    assert "--advertise" in reach(bad)["remedy"]
    bad.ask("left_peer")
    loopback = host.peer("loopback", "--port", "7003", manager=f"{there}:12000", prefix=lan.on(1))
    loopback.console.wait("where the manager's other peers cannot reach it")
    assert reach(loopback)["state"] == "problem"
    away = host.peer(
        "away", "--host", "0.0.0.0", "--port", "7004", manager=f"{there}:12000", prefix=lan.on(1)
    )
    near = host.peer(
        "near", "--host", "0.0.0.0", "--port", "7005", manager="localhost:12000", prefix=lan.on(0)
    )
    near.wait_peers(2)
    good.wait_peers(2)
    found = reach(good)
    assert found["state"] == "warning"
    assert "firewall" in found["remedy"]
    assert f"nc -z {there} 7001" in found["remedy"]
    found = reach(near)
    assert found["state"] == "warning"
    assert f"nc -z {socket.gethostname()} 7005" in found["remedy"], "127.0.0.1 would be another machine there"
    assert away.ask("req no.such").code == "not-found"  # it asks everybody
    assert reach(good)["state"] == "ok"
    assert "have connected" in reach(good)["message"]


def test_a_daemon_of_another_version(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = host.peer("rx")
    monkeypatch.setattr(doctor, "__version__", "99.0")
    from p2pd.control import client

    with client.connect(str(peer.socket_path)) as connection:
        found = list(doctor._ask(connection, ""))
    assert found[0].state == "warning"
    assert "restart" in found[0].remedy


def test_a_clock_that_cannot_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: 1e9, strftime=time.strftime))
    assert doctor._clock().state == "problem"
    monkeypatch.undo()

    class Kernel:
        status = 0

        def adjtimex(self, asked: Any) -> int:
            asked._obj.status = self.status
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Kernel())
    assert doctor._clock().state == "ok"
    Kernel.status = 0x40
    assert doctor._clock().state == "warning"


def test_a_disk_that_is_not_there(tmp_path: Path) -> None:
    assert health.room("room", str(tmp_path / "gone")).state == "problem"
