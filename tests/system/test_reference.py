"""Man pages and completions: made from the tables, up to date, and good to the programs that read them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pexpect
import pytest

from p2pd.cli.options import OPTIONS
from p2pd.control.commands import COMMANDS, EXIT_STATUSES
from p2pd.manager.tap import Options as ManagerOptions
from p2pd.peer.tap import Options as PeerOptions
from tests.rig.host import BIN, PATIENCE

TOP = Path(__file__).resolve().parents[2]
COMPLETION = TOP / "etc" / "completion"
PAGES = ["p2pctl", "p2pmanager", "p2ppeer"]


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", TOP / "tools" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_up_to_date() -> None:
    made = reference().files()
    assert len(made) == 8
    stale = [str(path) for path, text in made.items() if (TOP / path).read_text("utf-8") != text]
    assert not stale, "run `make reference`, and commit what it changes"


def plain(name: str) -> str:
    """A man page as read, in one line."""
    done = subprocess.run(
        ["man", "--warnings=w", "-l", str(TOP / "docs" / "man" / f"{name}.1")],
        env={**os.environ, "MANWIDTH": "300", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stderr == ""
    return " ".join(done.stdout.split())


@pytest.mark.needs("man")
def test_the_client_page_has_every_command_option_and_status() -> None:
    text = plain("p2pctl")
    for flag, metavar, help in OPTIONS:
        assert flag == "--help" or f"{flag} {metavar} {help}".replace("  ", " ") in text
    for command in COMMANDS.values():
        assert f"p2pctl {command.name} {command.help}" in text
        for argument in command.arguments:
            assert argument.help in text
    for status, code, meaning in EXIT_STATUSES:
        assert " ".join(f"{status} {code} {meaning}".split()) in text
    assert "$XDG_STATE_HOME/p2pd" in text
    for section in ("SYNOPSIS", "FILES", "EXAMPLES", "SEE ALSO"):
        assert f" {section} " in text


@pytest.mark.needs("man")
@pytest.mark.parametrize(("name", "options"), [("p2pmanager", ManagerOptions), ("p2ppeer", PeerOptions)])
def test_the_pages_of_the_daemons_have_every_option(name: str, options: type[PeerOptions]) -> None:
    text = plain(name)
    for option, _short, default, help in map(list[Any], options.optParameters):
        assert re.search(rf" --{option} \S+ {re.escape(help)}", text), option
        assert not default or str(default) in text
    for section in ("SYNOPSIS", "SIGNALS", "EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"):
        assert f" {section} " in text


@pytest.mark.needs("groff")
@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_good_roff(name: str) -> None:
    page = str(TOP / "docs" / "man" / f"{name}.1")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


LINES = {
    "p2pctl re": ["req", "resume"],
    "p2pctl --port 7001 re": ["req", "resume"],
    "p2pctl req --o": ["--output"],
    "p2pctl req bison.exe --js": ["--json"],
    "p2pctl help p": ["pause", "peers", "pieces"],
    "p2pctl --so": ["--socket"],
    "p2pctl transfers --re": [],
    "twistd -n p2": ["p2pmanager", "p2ppeer"],
    "twistd -n p2ppeer --p": ["--piece-size", "--port"],
    "twistd -n p2pmanager --le": ["--lease"],
}
BASH = """
source "$1"
read -ra COMP_WORDS <<< "$2"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE=$2 COMP_POINT=${#2}
function=$(complete -p "${COMP_WORDS[0]}") && function=${function##*-F } && ${function%% *}
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("line", LINES)
@pytest.mark.needs("bash")
def test_bash(line: str) -> None:
    file = COMPLETION / f"{line.split(maxsplit=1)[0]}.bash"
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", BASH, "bash", file, line],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == LINES[line]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.needs("fish")
def test_fish(line: str, tmp_path: Path) -> None:
    file = COMPLETION / f"{line.split(maxsplit=1)[0]}.fish"
    done = subprocess.run(
        ["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", str(file), line],
        env={**os.environ, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stderr == ""
    assert sorted(row.partition("\t")[0] for row in done.stdout.splitlines()) == LINES[line]


@pytest.mark.needs("zsh")
def test_zsh(tmp_path: Path) -> None:
    """In an interactive shell, with the key. For twistd it is zsh's own completion that asks ours."""
    env = {
        **os.environ, "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "xterm", "LC_ALL": "C.UTF-8",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }  # fmt: skip
    shell = pexpect.spawn(
        "zsh", ["-f", "-i"], env=env, cwd=tmp_path, encoding="utf-8", timeout=PATIENCE, dimensions=(50, 200)
    )
    try:
        shell.sendline(f"fpath=({COMPLETION} $fpath); autoload -Uz compinit; compinit -u -D; echo rea''dy")
        shell.expect("ready")
        # One candidate is put in at once, several are listed with what they do.
        for typed, expected in [
            ("p2pctl resu", "resume"),
            ("p2pctl --port 7001 left", "left_peer"),
            ("p2pctl req --rep", "--replace"),
            ("p2pctl re", "Fetch a file from everybody who has it"),
            ("twistd -n p2ppeer --piec", "--piece-size"),
        ]:
            shell.send(f"{typed}\t")
            shell.expect_exact(expected)
            shell.sendcontrol("u")
    finally:
        shell.close(force=True)
