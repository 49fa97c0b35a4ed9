"""The systemd units: what systemd's own tools say of them, and the daemons under what they ask for."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from p2pd.manager.tap import Options as ManagerOptions
from p2pd.peer.tap import Options as PeerOptions
from tests.rig import Daemon, Host
from tests.rig.host import BIN, PATIENCE, wait_until
from tests.rig.sandbox import read_unit

TOP = Path(__file__).resolve().parents[2]
ETC = TOP / "etc"
SERVICES = ["p2pmanager.service", "p2ppeer@.service"]
UNITS = [*SERVICES, "p2pmanager.socket", "p2ppeer@.socket"]


def analyze(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *args], capture_output=True, text=True, check=False, timeout=PATIENCE
    )


@pytest.mark.needs("systemd-analyze")
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    for name in UNITS:
        # The programs are where this test runs, not yet in /opt.
        text = (ETC / name).read_text("utf-8").replace("/opt/p2pd/bin", str(BIN))
        (tmp_path / name.replace("@.", "@music.")).write_text(text)
    done = analyze("verify", "--man=no", *map(str, sorted(tmp_path.iterdir())))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("name", SERVICES)
def test_exposure(name: str) -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(ETC / name))
    level = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert level is not None, done.stdout + done.stderr
    assert float(level.group(1)) <= 2.0


@pytest.mark.parametrize("name", SERVICES)
def test_every_option_of_the_sandbox_is_explained(name: str) -> None:
    """A comment above each setting, or above the group that it stands in."""
    service = (ETC / name).read_text("utf-8").partition("[Service]")[2].partition("[Install]")[0]
    for paragraph in service.strip().split("\n\n"):
        lines = paragraph.splitlines()
        assert lines[0].startswith("#"), lines[0]
        run = 0
        for line in lines:
            run = 0 if line.startswith("#") else run + 1
            assert run <= 6, f"{line}: no comment near it"


@pytest.mark.parametrize(
    ("name", "env", "options"),
    [
        ("p2pmanager.service", "p2pmanager.env.example", ManagerOptions),
        ("p2ppeer@.service", "p2ppeer.env.example", PeerOptions),
    ],
)
def test_the_command_lines_are_right(name: str, env: str, options: type[PeerOptions]) -> None:
    """Of the unit, with the example of its environment file."""
    variable, value = re.findall(r'^(\w+)="(.*)"$', (ETC / env).read_text("utf-8"), re.M)[0]
    (line,) = read_unit(ETC / name)["ExecStart"]
    words = shlex.split(line.replace("%i", "music").replace(f"${variable}", value))
    assert words[:3] == ["/opt/p2pd/bin/twistd", "--nodaemon", "--pidfile="]
    parsed: Any = options()
    parsed.parseOptions(words[4:])
    assert parsed["host"] == "0.0.0.0"
    assert parsed.get("dir", "/srv/p2pd/music") == "/srv/p2pd/music"


def test_the_sockets_fit_the_option_that_they_name() -> None:
    for name in ("p2pmanager.socket", "p2ppeer@.socket"):
        (passed,) = read_unit(ETC / name)["FileDescriptorName"]
        assert f"--port systemd:domain=INET6:name={passed}\n" in (ETC / name).read_text("utf-8")


@pytest.mark.needs("systemd-sysusers", "root")
def test_the_user_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", str(ETC / "p2pd.sysusers.conf")], check=True)
    (user,) = re.findall(r"^p2pd:.*", (tmp_path / "etc/passwd").read_text(), re.M)
    assert user.endswith(":/var/lib/p2pd:/usr/sbin/nologin")
    for name in SERVICES:
        assert read_unit(ETC / name)["User"] == ["p2pd"]


def sandbox(unit: str, *writable: Path) -> list[str]:
    """What goes before a command that is to run as the unit's."""
    rig = TOP / "tests" / "rig" / "sandbox.py"
    return ["unshare", "--mount", sys.executable, str(rig), str(ETC / unit), *map(str, writable), "--"]


def boxed(host: Host, name: str, manager: Daemon | None = None) -> Daemon:
    """A daemon under its unit's rules: its own state and share, and the folder of the control sockets."""
    run, state, share = host.run / "p2pd", host.folder / f"state-{name}", host.folder / name
    for folder in (run, state, share):
        folder.mkdir(mode=0o700, exist_ok=True)
    host.env.update(RUNTIME_DIRECTORY=str(run), STATE_DIRECTORY=str(state))
    if name == "manager":
        return host.manager(prefix=sandbox("p2pmanager.service", run, state))
    return host.peer(name, manager=manager, prefix=sandbox("p2ppeer@.service", run, state, share))


@pytest.mark.needs("systemd-analyze", "unshare", "libseccomp.so.2", "root")
def test_everything_works_in_the_sandbox(host: Host) -> None:
    """All that the daemons do to files and sockets; a system call that is not allowed would kill them."""
    manager = boxed(host, "manager")
    anna, boris = (boxed(host, name, manager) for name in ("anna", "boris"))
    boris.wait_peers(1)
    content = os.urandom(5_000_000)
    assert anna.share is not None
    assert boris.share is not None
    # Noticed while it runs, in a folder that is new.
    (anna.share / "sub").mkdir()
    (anna.share / "sub" / "new.bin").write_bytes(content)
    anna.wait_files(1)
    digest = hashlib.sha256(content).hexdigest()
    done = boris.ask(f"req sub/new.bin --sha256 {digest}").done
    assert Path(done["path"]).read_bytes() == content
    # What it makes can be read by its group, and by nobody else.
    assert Path(done["path"]).stat().st_mode & 0o777 == 0o640
    (anna.share / "sub" / "new.bin").unlink()
    anna.wait_files(0)
    # The other way round, over what is there.
    (anna.share / "sub" / "new.bin").write_bytes(content[::-1])
    anna.wait_files(1)
    assert boris.ask("req sub/new.bin").code == "conflict"
    assert boris.ask(f"req sub/new.bin --id {anna.ask('files').items[0]['id']} --replace").done
    assert Path(done["path"]).read_bytes() == content[::-1]
    # What is unfinished goes on after kill -9; a full stop and a new start keep the identity.
    assert boris.ask("req nobody-has-it").code == "not-found"
    boris.kill()
    boris.start()
    boris.wait_files(1)
    assert boris.ctl("left_peer").returncode == 0
    assert boris.process.wait(PATIENCE) == 0
    wait_until(lambda: not anna.ask("peers").items, "boris has left")
    assert anna.stop() == 0
    assert manager.stop(signal.SIGINT) == 0


@pytest.mark.needs("systemd-analyze", "unshare", "libseccomp.so.2", "root")
def test_a_share_that_may_not_be_written_is_served(host: Host) -> None:
    manager = host.manager()
    boris = host.peer("boris", manager=manager, files={"b": b"b"})
    state, run, share = host.folder / "state-anna", host.run / "p2pd", host.folder / "anna"
    for folder in (state, share):
        folder.mkdir(mode=0o700)
    (share / "a").write_bytes(b"a")
    host.env.update(RUNTIME_DIRECTORY=str(run), STATE_DIRECTORY=str(state))
    anna = host.peer("anna", manager=manager, prefix=sandbox("p2ppeer@.service", run, state))
    anna.wait_files(1)
    for peer in (anna, boris):
        peer.wait_peers(1)
    assert boris.ask("req a").done["size"] == 1
    assert anna.ask("req b").code == "storage"


@pytest.mark.needs("systemd-analyze", "unshare", "libseccomp.so.2", "root")
def test_turns_may_be_long_in_the_sandbox(host: Host) -> None:
    code = "from p2pd.net import turns; print(bool(turns.take()), turns.give_back())"
    command = [sys.executable, "-c", code]
    outside, inside = (
        subprocess.run([*prefix, *command], capture_output=True, text=True, check=False, timeout=PATIENCE)
        for prefix in ([], sandbox("p2ppeer@.service", host.folder))
    )
    assert outside.stdout in ("True True\n", "False False\n"), outside.stderr  # Linux 6.12, or older
    assert inside.stdout == outside.stdout, inside.stderr


TRIES = {
    "writing elsewhere": ("open('/var/tmp/p2pd-test', 'w')", "Read-only file system"),
    "the kernel's settings": ("open('/proc/sys/kernel/hostname')", "No such file"),
    "a packet socket": (f"socket.socket({int(socket.AF_PACKET)}, socket.SOCK_RAW)", -signal.SIGSYS),
    "memory for code": ("mmap.mmap(-1, 4096, prot=7)", -signal.SIGSYS),
    "another owner": ("os.chown(sys.argv[1], 1, 1)", -signal.SIGSYS),
    "a higher priority": ("os.setpriority(os.PRIO_PROCESS, 0, -1)", -signal.SIGSYS),
    "a namespace": ("ctypes.CDLL(None).unshare(0x20000)", -signal.SIGSYS),
}


@pytest.mark.needs("systemd-analyze", "unshare", "libseccomp.so.2", "root")
@pytest.mark.parametrize("name", TRIES)
def test_the_sandbox_holds(host: Host, name: str) -> None:
    """Otherwise the test above would show nothing."""
    code, outcome = TRIES[name]
    program = (
        "import ctypes, mmap, os, socket, sys; open(sys.argv[1] + '/x', 'w'); print('begun', flush=True)"
    )
    command = [sys.executable, "-c", f"{program}; {code}", str(host.folder)]
    done = subprocess.run(
        [*sandbox("p2ppeer@.service", host.folder), *command],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stdout == "begun\n", done.stderr
    if isinstance(outcome, str):
        assert outcome in done.stderr
    else:
        assert done.returncode == outcome, done.stderr
