"""`p2pctl` as a process: exit statuses, what stands on which stream, JSON, the choice of the daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from p2pd import __version__
from p2pd.errors import BY_CODE

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Client, MakeDaemon

SOURCES = [{"name": "ann", "host": "127.0.0.1", "port": 7002}, {"name": "bob", "host": "::1", "port": 7003}]
DONE: dict[str, Any] = {
    "event": "done",
    "name": "b.bin",
    "path": "/share/b.bin",
    "size": 1000,
    "id": "0" * 64,
    "seconds": 0.5,
    "sources": [{"name": "ann", "bytes": 600}, {"name": "bob", "bytes": 400}],
}
REQ: list[dict[str, Any]] = [
    {"event": "started", "transfer": "abcdef012345"},
    {"event": "sources", "sources": SOURCES},
    {"event": "note", "message": "still hashing"},
    {"event": "progress", "bytes": 0, "size": 1000, "rate": 0, "sources": []},
    {
        "event": "progress",
        "bytes": 500,
        "size": 1000,
        "rate": 1000,
        "sources": [{"name": "ann", "bytes": 500}],
    },
    {
        "event": "progress",
        "bytes": 510,
        "size": 1000,
        "rate": 1000,
        "sources": [{"name": "ann", "bytes": 510}],
    },
    {"event": "progress", "bytes": 1000, "size": 1000, "rate": 1000, "sources": []},
    DONE,
]
VARIANTS = [
    {"id": "1" * 64, "size": 5, "holders": ["ann"]},
    {"id": "2" * 64, "size": 6, "holders": ["b\x1b"]},
]


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("code", list(BY_CODE))
def test_every_code_has_its_exit_status(make_daemon: MakeDaemon, p2pctl: Client, code: str) -> None:
    failed = {"event": "failed", "code": code, "message": "it is so", "variants": VARIANTS}
    make_daemon().script["req"] = [failed]
    status = BY_CODE[code].exit_status
    said = p2pctl("req", "x")
    assert (said.returncode, said.stdout) == (status, "")
    assert said.stderr.startswith("p2pctl: it is so\n")
    assert "1" * 64 in said.stderr
    assert "\x1b" not in said.stderr
    said = p2pctl("req", "x", "--json")
    assert (said.returncode, said.stderr) == (status, "")
    assert objects(said.stdout) == [failed]


def test_an_unknown_code_is_a_plain_failure(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    make_daemon().script["peers"] = [{"event": "failed", "code": "new", "message": "m"}]
    assert p2pctl("peers").returncode == 1


def test_req_for_people(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    daemon = make_daemon()
    daemon.script["req"] = REQ
    said = p2pctl("req", "b.bin", "--output", "sub dir/b")
    assert said.returncode == 0
    assert said.stdout == "received b.bin, 1.0 kB in 0.5 s (ann 600 B, bob 400 B): /share/b.bin\n"
    assert said.stderr.splitlines() == [
        "from ann, bob",
        "still hashing",
        "  0%  0 B of 1.0 kB  -  - left",
        " 50%  500 B of 1.0 kB  1.0 kB/s  0:00 left",
        "100%  1.0 kB of 1.0 kB  1.0 kB/s  0:00 left",
    ]
    assert daemon.lines[-1] == "req b.bin --output 'sub dir/b'"
    quiet = p2pctl("req", "b.bin", "--quiet")
    assert (quiet.stderr, quiet.stdout) == ("", said.stdout)


def test_req_as_json(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    make_daemon().script["req"] = REQ
    said = p2pctl("--json", "req", "b.bin")
    assert (said.returncode, said.stderr) == (0, "")
    assert objects(said.stdout) == REQ
    assert objects(p2pctl("--json", "req", "b.bin", "--no-wait").stdout) == REQ[:-1]


def test_no_wait_prints_the_transfer(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    make_daemon().script["req"] = [REQ[0], {"event": "done"}]
    assert p2pctl("req", "b", "--no-wait").stdout == "started transfer abcdef012345\n"
    assert objects(p2pctl("req", "b", "--no-wait", "--json").stdout) == [REQ[0]]


def test_here_already(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    make_daemon().script["req"] = [DONE | {"sources": []}]
    assert p2pctl("req", "b").stdout == "b.bin is here: /share/b.bin\n"
    assert p2pctl("req", "b", "--no-wait").stdout == "b.bin is here: /share/b.bin\n"
    assert len(objects(p2pctl("req", "b", "--no-wait", "--json").stdout)) == 1


SLOW = {"held_up": {"own_link": 0.0, "sources": 1.0, "disk": 3.0}, "held_up_by": "disk"}
BOUND = {"seconds": 4.0, "took": 4.4, "ratio": 1.1, "peers": 8, "terms": {"down": 4.0, "owner": 3.0}}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (SLOW, "held up by disk (75% of the time)\n"),
        (SLOW | {"held_up_by": "owner"}, ""),
        ({"held_up_by": "disk", "held_up": {"disk": 0.1}}, ""),
        ({"held_up_by": "disk", "held_up": {"disk": "much"}, "bound": 3}, ""),
        (
            SLOW | {"bound": BOUND},
            "held up by disk (75% of the time); one of 8 who fetch it, about 1.10 times the bound by the"
            " best rates seen (own link 4.0 s, the owner 3.0 s)\n",
        ),
        (
            {"held_up_by": "unknown", "held_up": {"unknown": 2}},
            "held up by own or the sources' links, which of them cannot be told (100% of the time)\n",
        ),
    ],
)
def test_what_held_a_req_up(
    make_daemon: MakeDaemon, p2pctl: Client, more: dict[str, object], said: str
) -> None:
    make_daemon().script["req"] = [REQ[0], DONE | more]
    answer = p2pctl("req", "b")
    assert (answer.stderr, answer.stdout.count("\n")) == (said, 1), "the result stays one line"
    assert p2pctl("req", "b", "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("state", "seconds", "shown"), [("done", 0.1, False), ("done", 2.0, True), ("running", 0.1, True)]
)
def test_the_table_says_what_held_up_what_took_a_while(
    make_daemon: MakeDaemon, p2pctl: Client, state: str, seconds: float, shown: bool
) -> None:
    held_up = {"state": state, "held_up_by": "owner", "held_up": {"owner": seconds}}
    row = LISTS["transfers"][0] | held_up
    make_daemon().script["transfers"] = [{"event": "item", **row}, {"event": "done"}]
    title, line = p2pctl("transfers").stdout.splitlines()
    assert "HELD UP" in title
    assert ("owner" in line) == shown


def test_transfers_that_are_watched_are_a_line_for_each_change(
    make_daemon: MakeDaemon, p2pctl: Client
) -> None:
    row = LISTS["transfers"][0]
    rows = [row, row | {"bytes": 4, "held_up_by": "owner"}]
    gone = {"event": "gone", "id": "abc"}
    make_daemon().script["transfers"] = [
        *({"event": "item", **each} for each in rows),
        gone,
        {"event": "done"},
    ]
    said = p2pctl("transfers", "--watch", "--json")
    assert (said.returncode, objects(said.stdout), said.stderr) == (0, rows, "")
    title, first, second = p2pctl("transfers", "--watch").stdout.splitlines()
    assert "HELD UP" in title
    assert "25%" in first
    assert "owner" in second


LISTS = {
    "peers": ({"name": "ann", "host": "127.0.0.1", "port": 7002, "id": "0" * 32}, "7002"),
    "files": ({"name": "a\nb", "size": 5, "id": None}, "a\\x0ab   5 B"),
    "transfers": (
        {"id": "abc", "name": "n", "file": "f", "direction": "in", "state": "running", "bytes": 1, "size": 4}
        | {"rate": 1, "eta": 3.0, "sources": [{"name": "ann", "bytes": 1}]},
        "25%",
    ),
    "pieces": (
        {"name": "n", "id": "f", "size": 9, "piece_size": 3, "count": 3, "held": 2, "pieces": "0-1"},
        "2/3",
    ),
}


@pytest.mark.parametrize("command", list(LISTS))
def test_listings(make_daemon: MakeDaemon, p2pctl: Client, command: str) -> None:
    row, shown = LISTS[command]
    words = [command, "n"] if command == "pieces" else [command]
    make_daemon().script[command] = [{"event": "item", **row}, {"event": "done"}]
    said = p2pctl(*words, "--json")
    assert (said.returncode, objects(said.stdout), said.stderr) == (0, [row], "")
    said = p2pctl(*words)
    title, line = said.stdout.splitlines()
    assert "NAME" in title
    assert shown in line


def test_an_empty_listing(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    make_daemon().script["files"] = [{"event": "done"}]
    assert (p2pctl("files", "--json").stdout, p2pctl("files").stdout) == ("", "NAME  SIZE  ID\n")


def test_status(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    make_daemon(problems=["the name is\ntaken"])
    (answer,) = objects(p2pctl("status", "--json").stdout)
    assert answer["name"] == "fake"
    assert "event" not in answer
    text = p2pctl("status").stdout
    assert "manager    connected\n" in text
    assert text.endswith("problem: the name is\\x0ataken\n")


def test_small_commands(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    daemon = make_daemon()
    for command in ("cancel", "pause", "resume"):
        daemon.script[command] = [{"event": "done"}]
        said = p2pctl(command, "abc")
        assert (said.returncode, said.stdout) == (0, "")
        assert "abc" in said.stderr
        assert p2pctl(command, "abc", "--quiet").stderr == ""
        assert objects(p2pctl(command, "abc", "--json").stdout) == [{"event": "done"}]


def test_left_peer_returns_when_the_socket_is_gone(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    daemon = make_daemon()
    daemon.script["left_peer"] = [{"event": "done"}, daemon.LEAVE]
    assert p2pctl("left_peer").returncode == 0
    assert not daemon.path.exists()


def test_left_peer_of_a_daemon_that_dies_at_it(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    daemon = make_daemon()
    daemon.script["left_peer"] = [{"event": "done"}, daemon.HANG_UP]
    said = p2pctl("left_peer")
    assert said.returncode == 1
    assert "still there" in said.stderr


def test_a_daemon_that_goes_away(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    daemon = make_daemon()
    daemon.script["req"] = [REQ[0], daemon.HANG_UP]
    said = p2pctl("req", "b", "--json")
    assert said.returncode == 3
    assert [event.get("code") for event in objects(said.stdout)] == [None, "no-daemon"]


def test_nonsense_from_the_daemon(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    make_daemon().script["peers"] = [["no", "object"]]  # type: ignore[list-item]
    assert p2pctl("peers").returncode == 1


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["req"],
        ["req", "x", "--port"],
        ["--port", "x", "peers"],
        ["--port", "0", "peers"],
        ["--port", "70000", "peers"],
        ["--port", "7001", "--name", "x", "peers"],
        ["req", "x", "--timeout", "never"],
        ["req", "a\nb"],
        ["req", "\udcff"],
        [],
    ],
)
def test_wrong_command_lines(make_daemon: MakeDaemon, p2pctl: Client, words: list[str]) -> None:
    daemon = make_daemon()
    said = p2pctl(*words)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("p2pctl: ")
    said = p2pctl("--json", *words)
    assert said.returncode == 2
    assert [event["code"] for event in objects(said.stdout)] == ["usage"]
    assert [line for line in daemon.lines if line != "status"] == []


def test_no_daemon(p2pctl: Client, dead_socket: Path, tmp_path: Path) -> None:
    for words in (
        ["peers"],
        ["--port", "7009", "peers"],
        ["--port", "5", "peers"],
        ["--name", "x", "peers"],
        ["--socket", str(dead_socket), "peers"],
        ["--socket", str(tmp_path / "missing"), "peers"],
        ["--port", "5", "version"],
    ):
        assert p2pctl(*words).returncode == 3, words
        said = p2pctl(*words, "--json")
        assert (said.returncode, said.stderr) == (3, "")
        assert [event["code"] for event in objects(said.stdout)] == ["no-daemon"]
    assert p2pctl("--socket", "x" * 200, "peers").returncode == 2


def test_the_choice_of_the_daemon(make_daemon: MakeDaemon, p2pctl: Client, dead_socket: Path) -> None:
    ann = make_daemon("peer-7001.sock", name="ann")
    assert p2pctl("status").returncode == 0  # the only one
    bob = make_daemon("peer-7002.sock", name="bob")
    both = make_daemon("manager-7002.sock", name="hub", role="manager")
    alone = make_daemon("manager-12000.sock", name="bob", role="manager")

    def asked(*words: str) -> list[str]:
        for daemon in (ann, bob, both, alone):
            daemon.script["peers"] = [{"event": "done"}]
            daemon.lines.clear()
        said = p2pctl(*words, "peers")
        assert said.returncode == 0, said.stderr
        return [d.path.name for d in (ann, bob, both, alone) if "peers" in d.lines]

    assert asked("--port", "7001") == ["peer-7001.sock"]
    assert asked("--port=7002") == ["peer-7002.sock"]
    assert asked("--port", "12000") == ["manager-12000.sock"]
    assert asked("--name", "hub") == ["manager-7002.sock"]
    assert asked("--socket", str(both.path)) == ["manager-7002.sock"]
    bob.close()
    assert asked("--port", "7002") == ["manager-7002.sock"]

    several = p2pctl("status")
    assert several.returncode == 2
    for name in ("ann", "hub", str(ann.path)):
        assert name in several.stderr
    assert str(dead_socket) not in several.stderr
    (failed,) = objects(p2pctl("status", "--json").stdout)
    assert sorted(daemon["port"] for daemon in failed["daemons"]) == [7001, 7002, 12000]


def test_options_behind_the_command(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    daemon = make_daemon()
    make_daemon("peer-7002.sock")
    daemon.script["req"] = [DONE]
    assert objects(p2pctl("req", "b", "--port", "7001", "--json").stdout) == [DONE]
    assert p2pctl("req", "--port", "7001", "--", "--json").returncode == 0
    assert daemon.lines[-1] == "req -- --json"


def test_version_needs_no_daemon(make_daemon: MakeDaemon, p2pctl: Client) -> None:
    assert p2pctl("version").stdout == f"p2pctl {__version__}\n"
    assert objects(p2pctl("version", "--json").stdout) == [{"version": __version__}]
    make_daemon().script["version"] = [{"event": "done", "version": "9\x1b"}]
    assert p2pctl("version", "--port", "7001").stdout.splitlines()[1] == "daemon 9\\x1b"


def test_help(p2pctl: Client) -> None:
    for words in (["help"], ["--help"], ["-h"]):
        said = p2pctl(*words)
        assert said.returncode == 0
        assert "verify-failed" in said.stdout
        assert re.search(r"\n  130 +interrupted", said.stdout)
        assert "--socket PATH" in said.stdout
    assert p2pctl("help", "req").stdout == p2pctl("req", "--help").stdout
    (answer,) = objects(p2pctl("help", "--json").stdout)
    assert "left_peer" in answer["text"]


def test_a_reader_that_has_seen_enough(
    make_daemon: MakeDaemon, command_line: list[str], runtime: Path
) -> None:
    rows = [{"event": "item", "name": f"f{n}", "size": n, "id": None} for n in range(20_000)]
    make_daemon().script["files"] = [*rows, {"event": "done"}]
    with subprocess.Popen(
        [*command_line, "files", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_locale_that_has_not_the_letters(make_daemon: MakeDaemon, command_line: list[str]) -> None:
    make_daemon().script["req"] = [DONE | {"name": "größe", "sources": []}]
    env = dict(os.environ, PYTHONIOENCODING="ascii", LC_ALL="C")
    said = subprocess.run([*command_line, "req", "x"], capture_output=True, env=env, check=True, timeout=60)
    assert said.stdout == b"gr\\xf6\\xdfe is here: /share/b.bin\n"


def test_what_is_imported() -> None:
    code = """
import sys
from p2pd.cli.main import main
assert main(["version"]) == 0 and main(["--socket", "/nonexistent/x", "peers"]) == 3
banned = ("twisted", "attr", "attrs", "cattrs", "rich", "prompt_toolkit", "blake3", "zope")
print([name for name in sys.modules if name.partition(".")[0] in banned])
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.splitlines()[-1] == "[]"
