"""Faults 92 and 94: the file of --config, at the start and read again while the daemon runs."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from p2pd.manager.tap import Options as ManagerOptions
from p2pd.peer.tap import Options as PeerOptions
from tests.rig import Daemon, Host, Oracle, Raw
from tests.rig.host import BIN, PATIENCE, wait_until
from tests.rig.oracle import tree_digest

OPTIONS: dict[str, Any] = {"p2ppeer": PeerOptions, "p2pmanager": ManagerOptions}
ROLES = ["p2ppeer", "p2pmanager"]


def start(host: Host, role: str, *args: str) -> Daemon:
    return host.peer("rx", *args) if role == "p2ppeer" else host.manager(*args)


def hang_up(daemon: Daemon, answer: str) -> None:
    """Send SIGHUP and await the line that answers it."""
    before = sum(1 for line in daemon.console.lines if re.search(answer, line))
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.console.wait(answer, before + 1)


def takes_one_connection_only(daemon: Daemon) -> bool:
    """True where a second connection is refused while there is one."""
    with Raw(daemon.port) as first, Raw(daemon.port) as second:
        if daemon.role == "p2ppeer":
            first.hello()
            second.send(b"")
            event = second.receive()
        else:
            wait_until(lambda: daemon.fds() > 0, "it runs")
            second.socket.settimeout(1.0)
            try:
                event = second.receive()
            except TimeoutError:
                return False
        return "full" in getattr(event, "message", "")


@pytest.mark.fault(92)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max = 1\nmaxx = 5\n", ("line 2", "maxx", "is max meant")),
        ("max = 1\n\nactivity = 7\n", ("line 3", "activity")),
        ("max = 1\nhost = [\n", ("line 2",)),
        ("max = 0\n", ("line 1", "max")),
        ("max = 1\nstate = ''\n", ("line 2", "state")),
        ("\x00", ("line 1",)),
        (None, ("No such file",)),
    ],
)
def test_a_bad_file_keeps_all_old_settings(
    host: Host, role: str, text: str | None, words: tuple[str, ...]
) -> None:
    file = host.folder / "p2pd.toml"
    file.write_text("max = 50\n")
    daemon = start(host, role, "--config", str(file))
    oracle = Oracle(host, [daemon])
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    hang_up(daemon, "SIGHUP: .* the settings of before are kept")
    (problem,) = daemon.status()["problems"]
    assert "p2pd.toml" in problem
    if not (role == "p2pmanager" and "activity" in words):  # which it does not know at all
        for word in words:
            assert word in problem
    assert not takes_one_connection_only(daemon)
    file.write_text("max = 1\n")
    hang_up(daemon, "SIGHUP: .* was read again: max is 1 now")
    assert daemon.status()["problems"] == []
    assert takes_one_connection_only(daemon)
    file.write_text("max = 50\n")
    hang_up(daemon, "SIGHUP: .* was read again: max is 50 now")
    oracle.check()


def fetch_f(peer: Daemon) -> None:
    with Raw(peer.port) as raw:
        raw.hello()
        have: Any = raw.req("f")
        assert raw.fetch(have, 0, 7) == b"content"


@pytest.mark.fault(92)
def test_what_needs_a_restart_is_named_and_the_rest_is_taken(host: Host) -> None:
    file = host.folder / "p2pd.toml"
    file.write_text('activity = "on"\nban = 60\n')
    peer = host.peer("rx", "--config", str(file), files={"f": b"content"})
    oracle = Oracle(host, [peer])
    fetch_f(peer)
    peer.console.wait("asks for piece 0 of f")
    file.write_text('activity = false\nban = 5\nhost = "0.0.0.0"\nadvertise = "10.0.0.1"\n')
    hang_up(peer, "SIGHUP: .*: a new (advertise, host|host, advertise) needs a restart")
    peer.console.wait("was read again: (activity is off now, ban is 5 now|ban is 5 now, activity is off now)")
    fetch_f(peer)
    assert peer.status()["host"] == "127.0.0.1"
    hang_up(peer, "SIGHUP: .*: a new .* needs a restart")  # as long as it is so
    file.write_text("activity = false\nban = 5\n")
    hang_up(peer, "was read again: nothing to change now")
    assert len([line for line in peer.console.lines if "needs a restart" in line]) == 2
    assert len([line for line in peer.console.lines if "asks for piece 0" in line]) == 1, "activity is off"
    oracle.check()


@pytest.mark.fault(92)
def test_a_new_lease_is_told_to_who_joins_and_takes_nothing_from_who_is_here(host: Host) -> None:
    file = host.folder / "p2pd.toml"
    file.write_text("lease = 30\n")
    manager = host.manager("--config", str(file))
    early = host.peer("early", manager=manager)
    early.wait_peers(0)
    oracle = Oracle(host, [manager, early]).warm()  # its first `req` opens a folder
    file.write_text("lease = 1\n")
    hang_up(manager, "lease is 1 now")
    late = host.peer("late", manager=manager)
    early.wait_peers(1)
    os.kill(late.pid, signal.SIGSTOP)  # it falls silent
    try:
        early.wait_peers(0)
    finally:
        os.kill(late.pid, signal.SIGCONT)
    early.wait_peers(1)
    assert early.console.text().count("connected to the manager") == 1, "it kept the lease that it was told"
    oracle.check()


@pytest.mark.fault(92)
@pytest.mark.parametrize("role", ROLES)
def test_a_hang_up_without_a_file_changes_nothing(host: Host, role: str) -> None:
    daemon = start(host, role)
    oracle = Oracle(host, [daemon])
    hang_up(daemon, "SIGHUP: there is no --config file to read again")
    assert daemon.status()["problems"] == []
    oracle.check()


@pytest.mark.fault(92)
def test_a_daemon_whose_terminal_is_gone_stops_in_order(host: Host) -> None:
    """SIGHUP has an older meaning: who closes a terminal does not want orphans."""
    file = host.folder / "p2pd.toml"
    file.write_text("max = 50\n")
    log = host.folder / "log"
    child, terminal = pty.fork()
    if not child:
        command = [str(BIN / "twistd"), "-n", "--logfile", str(log), "p2pmanager", "--port", "0"]
        os.chdir(host.folder)
        os.execve(command[0], [*command, "--config", str(file)], host.env)
    wait_until(lambda: log.exists() and "listening on" in log.read_text(), "it listens")
    (path,) = wait_until(lambda: list(host.run.glob("p2pd/manager-*.sock")), "its socket")
    os.kill(child, signal.SIGHUP)  # with the terminal still there: read again
    wait_until(lambda: "nothing to change now" in log.read_text(), "the file is read again")
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert not path.exists()
    assert "Traceback" not in log.read_text()


@pytest.mark.fault(92)
def test_twistds_own_signal_for_its_log_file_still_works(host: Host) -> None:
    log = host.folder / "log"
    daemon = Daemon(host, "p2pmanager", ["--port", "0"], wait=False, twistd=["--logfile", str(log)])
    host.daemons.append(daemon)
    wait_until(lambda: log.exists() and "listening on" in log.read_text(), "it listens")
    os.kill(daemon.pid, signal.SIGUSR1)
    wait_until(lambda: (host.folder / "log.1").exists(), "the log is turned over")
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: log.exists() and "no --config file" in log.read_text(), "the new one is written")


# 94


def test_the_file_gives_options_and_the_command_line_wins(host: Host) -> None:
    file = host.folder / "p2pd.toml"
    file.write_text('port = 7009\nname = "from the file"\nmax = 7\npiece-size = "64Ki"\nno-manager = true\n')
    options = PeerOptions()
    options.parseOptions(["--config", str(file), "--name", "from the line", "--dir", str(host.folder)])
    config = options.config()
    assert (config.port, config.name, config.manager) == ("7009", "from the line", None)
    assert config.piece_size == 65536
    assert config.run_time.maximum == 7
    options = PeerOptions()
    options.parseOptions(["--config", str(file), "--max", "200", "--manager", "hub:1"])
    assert options.config().run_time.maximum == 200, "said on the line, though it is the default"
    assert options.config().manager == ("hub", 1), "a manager on the line wins over none in the file"


BAD = [
    ("p2ppeer", 'colour = "red"', ("line 1", "colour", "no such option")),
    ("p2ppeer", "config = 'x'", ("line 1", "config", "no such option")),
    ("p2ppeer", "\n\n[peer]\nport = 1", ("line 3", "peer")),
    ("p2ppeer", "port = 1.5", ("line 1", "port", "a whole number", "a fraction")),
    ("p2ppeer", "port = true", ("line 1", "port")),
    ("p2ppeer", "name = 7", ("line 1", "name", "a string")),
    ("p2ppeer", 'no-manager = "yes"', ("line 1", "no-manager", "true or false")),
    ("p2ppeer", "max = 200\nmax = 300", ("line 2",)),
    ("p2ppeer", "max = -1", ("line 1", "max")),
    ("p2ppeer", "max = 9999999999999999999999", ("line 1", "max")),
    ("p2ppeer", "port = 7001\n'max' = 0", ("line 2", "max")),
    ("p2ppeer", 'manager = "hub"', ("line 1", "manager")),
    ("p2ppeer", 'activity = "maybe"', ("line 1", "activity")),
    ("p2ppeer", "piece-size = 10", ("line 1", "piece-size")),
    ("p2ppeer", "ban = 0", ("line 1", "ban")),
    ("p2ppeer", 'dir = ""', ("line 1", "dir")),
    ("p2ppeer", "started = 2001-01-01", ("line 1", "started")),
    ("p2pmanager", "lease = 0", ("line 1", "lease")),
    ("p2pmanager", 'lease = "soon"', ("line 1", "lease")),
    ("p2pmanager", "host = '300.1.1.1'", ("line 1", "host")),
    ("p2pmanager", 'dir = "x"', ("line 1", "dir", "no such option")),
    ("p2pmanager", "port = \n", ("line 1",)),
    ("p2pmanager", "\n\nname\x1b[31m", ("line 3",)),
]


@pytest.mark.fault(94)
@pytest.mark.parametrize(("role", "text", "words"), BAD)
def test_a_fault_in_the_file_is_named_with_its_line(
    tmp_path: Path, role: str, text: str, words: tuple[str, ...]
) -> None:
    file = tmp_path / "p2pd.toml"
    file.write_text(text)
    port = ["--port", "7001"] if role == "p2ppeer" and "port" not in text else []
    with pytest.raises(usage.UsageError) as caught:
        OPTIONS[role]().parseOptions([*port, "--config", str(file)])
    sentence = str(caught.value)
    assert str(file) in sentence
    for word in words:
        assert word in sentence
    assert "\x1b" not in sentence


def test_what_is_no_file_hangs_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "long").write_bytes(b"#" * 2**21)
    (tmp_path / "binary").write_bytes(b"max = 5\n\xff")
    for name, word in (("fifo", "not a file"), ("long", "longer"), ("binary", "line 2"), (".", "director")):
        with pytest.raises(usage.UsageError, match=word):
            ManagerOptions().parseOptions(["--config", str(tmp_path / name)])


def run_twistd(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "twistd"), "-n", *words],
        cwd=host.folder, env=host.env, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.fault(94)
@pytest.mark.parametrize("role", ROLES)
def test_a_daemon_with_a_bad_file_opens_nothing(host: Host, role: str) -> None:
    running = host.manager()
    oracle = Oracle(host, [running])
    file = host.folder / "p2pd.toml"
    file.write_text("# settings\nport = 0\nmax = 'many'\n")
    before = tree_digest(host.folder)
    done = run_twistd(host, role, "--config", "p2pd.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"p2pd: --config: {file}, line 3: max: 'many' is not a whole number")
    assert done.stderr.count("\n") == 1
    assert tree_digest(host.folder) == before
    oracle.check()


@pytest.mark.fault(94)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--config", "none.toml"), "none.toml"),
        (("--port", "x"), "--port: "),
        (("--colour", "red"), "colour"),
        (("--max",), "max"),
        (("share\x1b[2J\nx",), "only options"),
    ],
)
def test_what_is_wrong_is_one_line_on_standard_error(
    host: Host, role: str, args: tuple[str, ...], word: str
) -> None:
    done = run_twistd(host, role, *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("p2pd: ")
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_help_says_once_how_a_daemon_is_started(host: Host, role: str) -> None:
    done = run_twistd(host, role, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(rf"Usage: twistd \[options\] {role} .*\[options\]\n", done.stdout)
    assert done.stdout.count("Usage:") == 1
