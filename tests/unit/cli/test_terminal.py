"""`p2pctl` on a terminal: bars, Ctrl-C, the prompt."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pytest

from p2pd.cli.drawing import Screen, draw_table
from p2pd.cli.render import LISTINGS

if TYPE_CHECKING:
    from tests.unit.cli.conftest import FakeDaemon, MakeDaemon

Spawn = Callable[..., "pexpect.spawn[str]"]

PROGRESS = {
    "event": "progress",
    "bytes": 500_000,
    "size": 1_000_000,
    "rate": 250_000,
    "sources": [
        {"name": "ann[red]:smile:", "bytes": 300_000, "rate": 1},
        {"name": "b\x1b[2J", "bytes": 200_000},
    ],
}
STARTED = {"event": "started", "transfer": "abcdef012345"}
DONE = {"event": "done", "name": "b", "path": "/s/b", "size": 1_000_000, "seconds": 2.0, "id": "0" * 64}


@pytest.fixture
def spawn(command_line: list[str], runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spawn]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")
    made = []

    def start(*words: str) -> pexpect.spawn[str]:
        child = pexpect.spawn(
            command_line[0],
            [*command_line[1:], *words],
            encoding="utf-8",
            timeout=30,
            dimensions=(24, 100),
        )
        child.logfile_read = io.StringIO()
        made.append(child)
        return child

    yield start
    for child in made:
        child.close(force=True)


def ends(child: pexpect.spawn[str]) -> int | None:
    child.expect(pexpect.EOF)
    child.wait()
    status: int | None = child.exitstatus
    return status


def held(make_daemon: MakeDaemon) -> FakeDaemon:
    daemon = make_daemon()
    sources = {"event": "sources", "sources": [{"name": "ann", "host": "h", "port": 1}]}
    done = DONE | {"sources": [{"name": "ann[red]:smile:", "bytes": 1_000_000}]}
    daemon.script["req"] = [STARTED, sources, PROGRESS, daemon.HOLD, done]
    return daemon


def test_bars(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    daemon = held(make_daemon)
    child = spawn("req", "b")
    child.expect_exact("500.0 kB")
    child.expect_exact("0:02")
    child.expect_exact("ann[red]:smile:")
    child.expect_exact("b\\x1b[2J")
    daemon.go.set()
    child.expect_exact("received b, 1.0 MB in 2.0 s")
    assert ends(child) == 0


def test_a_table(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    name = "n[bold]\x1b]0;title\x07\u202e"
    row = {"event": "item", "name": name, "size": 5, "id": "f" * 64}
    make_daemon().script["files"] = [row, {"event": "done"}]
    child = spawn("files")
    child.expect_exact("NAME")
    child.expect_exact("n[bold]\\x1b]0;title\\x07\\u202e")
    assert ends(child) == 0


@pytest.mark.parametrize("width", [60, 80, 100])
def test_ids_states_and_numbers_stay_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    row = {
        "id": "abcdef012345",
        "name": "films/a-long-name-of-a-file-2026.mkv",
        "direction": "out",
        "state": "verifying",
        "bytes": 268_435_456,
        "size": 268_435_456,
        "rate": 123_456_789,
        "eta": 3723,
        "sources": [{"name": "anna-7001"}, {"name": "boris-7002"}],
        "message": "all sources were lost; it goes on when one returns",
    }
    draw_table(LISTINGS["transfers"], [row, row | {"message": None, "rate": None}])
    lines = capsys.readouterr().out.splitlines()
    for word in ("abcdef012345", "out", "verifying", "100%", "268.4 MB", "1:02:03"):
        assert sum(word in line for line in lines) == 2, word
    assert sum("123.5 MB/s" in line for line in lines) == 1
    if width >= 80:
        assert all(len(line) <= width for line in lines)
    else:
        assert len(lines) == 3, "what the terminal wraps is not folded as well"
    draw_table(LISTINGS["transfers"], [row | {"message": None}])
    assert "WHY" not in capsys.readouterr().out, "an empty column takes no room"


def test_interrupting_a_req_leaves_the_transfer(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    daemon = held(make_daemon)
    child = spawn("--port", "7001", "req", "a b")
    child.expect_exact("500.0 kB")
    child.sendintr()
    child.expect_exact("the transfer goes on")
    child.expect_exact("p2pctl --port 7001 req 'a b'")
    child.expect_exact("p2pctl --port 7001 transfers")
    child.expect_exact("p2pctl --port 7001 cancel abcdef012345")
    assert ends(child) == 130
    daemon.go.set()
    assert daemon.gone.wait(30)


def test_interrupting_before_it_began(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    daemon = make_daemon()
    daemon.script["req"] = [daemon.HOLD]
    child = spawn("req", "b")
    assert daemon.held.wait(30)
    child.sendintr()
    child.expect_exact("before a transfer began")
    assert ends(child) == 130


def test_the_prompt(make_daemon: MakeDaemon, spawn: Spawn, runtime: Path) -> None:
    daemon = make_daemon()
    daemon.script["peers"] = [
        {"event": "item", "name": "ann", "host": "10.0.0.1", "port": 7002, "id": "0" * 32},
        {"event": "done"},
    ]
    child = spawn()
    child.expect_exact("fake>")
    child.sendline("peers")
    child.expect_exact("10.0.0.1")
    child.expect_exact("fake>")
    child.sendline("nonsense")
    child.expect_exact("There is no command")
    child.sendline("req 'open")
    child.expect_exact("not well quoted")
    child.sendline("help")
    child.expect_exact("left_peer")
    child.expect_exact("End this prompt")
    child.send("sta\t")
    child.expect_exact("tus")  # completed
    child.send("\r")
    child.expect_exact("connected")
    child.expect_exact("fake>")
    child.sendline("q")
    assert ends(child) == 0
    history = runtime.parent / "state" / "p2pd" / "p2pctl-history"
    assert "+peers" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_the_clients_own_options_at_the_prompt(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    daemon = make_daemon()
    daemon.script["peers"] = [{"event": "item", "name": "ann"}, {"event": "done"}]
    daemon.script["pause"] = [{"event": "done"}]
    child = spawn()
    for line, answer in (
        ("peers --json", '{"name": "ann"}'),
        ("nonsense --json", '"code": "usage"'),
        ("req --help", "req FILE"),
        ("peers --port 7001", "The daemon is chosen"),
        ("peers", "NAME"),
    ):
        child.expect_exact("fake>")
        child.sendline(line)
        child.expect_exact("\n")
        child.expect_exact(answer)
    child.expect_exact("fake>")
    child.sendline("pause x --quiet")
    child.expect_exact("\n")
    child.expect_exact("fake>")
    assert "paused" not in str(child.before)
    child.sendline("q")
    assert ends(child) == 0
    assert daemon.lines[-1] == "pause x"


def test_interrupts_and_the_end_of_input_at_the_prompt(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    daemon = held(make_daemon)
    child = spawn()
    child.expect_exact("fake>")
    child.send("half a li")
    child.sendintr()
    child.expect_exact("fake>")
    child.sendline("req b")
    child.expect_exact("500.0 kB")
    child.sendintr()
    child.expect_exact("the transfer goes on")
    child.expect_exact("fake>")
    child.sendeof()
    assert ends(child) == 0
    daemon.go.set()


def test_left_peer_ends_the_prompt(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    daemon = make_daemon()
    daemon.script["left_peer"] = [{"event": "done"}, daemon.LEAVE]
    child = spawn()
    child.expect_exact("fake>")
    child.sendline("left_peer")
    assert ends(child) == 0


def test_no_prompt_without_a_daemon(spawn: Spawn, runtime: Path) -> None:
    child = spawn()
    child.expect_exact("No daemon")
    assert ends(child) == 3


WATCHED = {
    "event": "item",
    "id": "abcdef012345",
    "name": "n\x1b[2J",
    "direction": "in",
    "state": "running",
    "bytes": 250_000,
    "size": 1_000_000,
    "rate": 250_000,
    "eta": 3.0,
    "sources": [{"name": "ann"}],
    "held_up_by": "unknown",
    "bound": None,
}
LATER = WATCHED | {"bytes": 750_000, "held_up_by": "own_link", "bound": {"ratio": 1.034}}
OTHER = WATCHED | {"id": "0" * 12, "name": "other", "held_up_by": None}


def test_transfers_that_are_watched_are_drawn_anew(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    daemon = make_daemon()
    daemon.script["transfers"] = [
        WATCHED, OTHER, daemon.HOLD, {"event": "gone", "id": "0" * 12}, LATER, daemon.FOREVER,
    ]  # fmt: skip
    child = spawn("transfers", "--watch")
    child.expect_exact("n\\x1b[2J")
    child.expect_exact("25%")
    child.expect_exact("other")
    daemon.go.set()
    child.expect_exact("75%")
    child.expect_exact("own link")
    child.expect_exact("1.03x")
    child.logfile_read = last = io.StringIO()
    child.sendintr()
    assert ends(child) == 130
    assert "other" not in last.getvalue(), "what is gone is drawn no more"
    assert daemon.lines[-1] == "transfers --watch"


def test_a_watched_table_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that the terminal wraps could not be drawn over."""
    out = io.StringIO()
    monkeypatch.setattr("os.get_terminal_size", lambda fd: os.terminal_size((50, 24)))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr(out, "fileno", lambda: 1)
    screen = Screen(LISTINGS["transfers"])
    screen.draw([LATER | {"message": "all sources were lost"}, OTHER])
    screen.close()
    lines = out.getvalue().splitlines()
    assert any("abcdef" in line for line in lines)
    assert all(len(line) < 50 for line in lines)
