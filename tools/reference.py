"""Writes the man pages (docs/man) and shell completions (etc/completion) from the tables of the code.

Run by `make reference` after a change of commands or options; a test fails where the files are not up to
date. The tables: commands and exit statuses in p2pd/control/commands.py, the client's own options in
p2pd/cli/options.py, the daemons' in their tap.py. Completion of twistd is for bash and fish: zsh brings
one of its own, which asks Twisted.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import shtab
from argparse_manpage.manpage import Manpage
from twisted.python.reflect import accumulateClassList
from twisted.scripts._twistd_unix import ServerOptions

from p2pd import __version__
from p2pd.cli import options
from p2pd.control import commands
from p2pd.manager.tap import Options as ManagerOptions
from p2pd.peer.tap import Options as PeerOptions

TOP = Path(__file__).resolve().parent.parent
WIDTH = partial(argparse.HelpFormatter, width=100)
"""Else argparse folds by the terminal."""
DAEMONS: dict[str, Any] = {"p2pmanager": ManagerOptions, "p2ppeer": PeerOptions}
FILES = {"socket", "control", "config", "state", "dir", "pidfile", "logfile", "file", "rundir", "chroot"}
"""Options whose value is a path."""
METAVARS = {
    "activity": "on|off",
    "advertise": "HOST",
    "ban": "SECONDS",
    "config": "FILE",
    "control": "PATH",
    "dir": "FOLDER",
    "lease": "SECONDS",
    "manager": "HOST:PORT",
    "max": "N",
    "piece-size": "SIZE",
    "state": "FOLDER",
}
"""What the value of a daemon's option is called, where that is not the option's name."""

FOLDERS = r"""The control socket lies in $RUNTIME_DIRECTORY (systemd), else in $XDG_RUNTIME_DIR/p2pd, else in
p2pd\-UID under the system's temporary folder, and is named
.I peer\-PORT.sock
or
.IR manager\-PORT.sock ,
PORT being the one really listened on. State lies in $STATE_DIRECTORY (systemd), else in
$XDG_STATE_HOME/p2pd, which is
.I ~/.local/state/p2pd
where that is not set."""

EXAMPLES = {
    "p2pctl": [
        (
            "Fetch a file from everybody who has it, and check its digest:",
            "p2pctl req bison.exe --sha256 HEX",
        ),
        ("What comes and goes, for a script:", "p2pctl --port 7001 --json transfers"),
        (
            "A daemon that systemd runs, as root:",
            "p2pctl --socket /run/p2pd-peer-music/peer-7001.sock status",
        ),
    ],
    "p2pmanager": [
        ("For this machine only:", "twistd -n p2pmanager"),
        ("For all machines, with its options in a file:", "twistd -n p2pmanager --config /etc/p2pd/hub.toml"),
    ],
    "p2ppeer": [
        (
            "Share a folder with other machines:",
            "twistd -n p2ppeer --host 0.0.0.0 --port 7001 --dir share/ --manager hub:12000",
        ),
        ("A second peer on this machine:", "twistd -n p2ppeer --port 7002 --dir share2/"),
    ],
}
SEE_ALSO = {
    "p2pctl": ["p2ppeer", "p2pmanager"],
    "p2pmanager": ["p2pctl", "p2ppeer"],
    "p2ppeer": ["p2pctl", "p2pmanager"],
}


def _add(parser: Any, name: str, metavar: str, help: str, short: str | None = None, **more: Any) -> None:
    """The option ``--name``; ``metavar``: what its value is called, empty where it has none."""
    more |= {"metavar": metavar} if metavar else {"action": "store_true"}
    flags = [f"-{short}"] if short else []
    action = parser.add_argument(*flags, f"--{name}", help=help.replace("%", "%%"), **more)
    if name in FILES:
        action.complete = shtab.FILE


def client(own_after_command: bool) -> argparse.ArgumentParser:
    """The client's command line; its own options once more after each command where completion wants that."""

    def own(parser: argparse.ArgumentParser) -> None:
        for flag, metavar, help in options.OPTIONS:
            _add(parser, flag.removeprefix("--"), metavar, help)

    parser = argparse.ArgumentParser(
        prog="p2pctl", usage=options.USAGE, add_help=False, formatter_class=WIDTH,
        description="Talks to a running daemon of p2pd: sends it one command and shows the answer. "
        + " ".join(options.WITHOUT.split()),
    )  # fmt: skip
    own(parser)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in commands.COMMANDS.values():
        sub = subparsers.add_parser(
            command.name,
            help=command.help,
            usage=f"p2pctl {command.usage}",
            add_help=False,
            formatter_class=WIDTH,
        )
        for argument in command.arguments:
            more: dict[str, Any] = {}
            if "nargs" in argument.settings:
                more["nargs"] = argument.settings["nargs"]
            if argument.metavar == "COMMAND":
                more["choices"] = list(commands.COMMANDS)
            if argument.flag.startswith("-"):
                _add(sub, argument.flag.removeprefix("--"), argument.metavar, argument.help, **more)
            else:
                sub.add_argument(argument.flag, metavar=argument.metavar, help=argument.help, **more)
        if own_after_command:
            own(sub)
    return parser


def _usage_options(parser: argparse.ArgumentParser, kind: Any) -> None:
    values: list[list[Any]] = []
    flags: list[list[Any]] = []
    accumulateClassList(kind, "optParameters", values)
    accumulateClassList(kind, "optFlags", flags)
    for name, short, default, help in (each[:4] for each in values):
        text = " ".join(help.split())
        if default and "efault:" not in text:
            text = f"{text} Default: {default}."
        _add(parser, name, METAVARS.get(name, name.upper()), text, short)
    for name, short, help in (each[:3] for each in flags):
        _add(parser, name, "", " ".join(help.split()), short)


def daemon(name: str) -> argparse.ArgumentParser:
    """The command line of a daemon, as twistd takes it."""
    kind = DAEMONS[name]
    needed = "--port PORT [--dir FOLDER] " if name == "p2ppeer" else ""
    parser = argparse.ArgumentParser(
        prog=name,
        usage=f"twistd -n {name} {needed}[OPTIONS]",
        add_help=False,
        formatter_class=WIDTH,
        description=kind.longdesc,
    )
    _usage_options(parser, kind)
    return parser


def twistd() -> argparse.ArgumentParser:
    """twistd with its own options and both daemons."""
    parser = argparse.ArgumentParser(prog="twistd", add_help=False, formatter_class=WIDTH)
    _usage_options(parser, ServerOptions)
    subparsers = parser.add_subparsers(metavar="DAEMON")
    for name, kind in DAEMONS.items():
        sub = subparsers.add_parser(name, help=kind.longdesc, add_help=False, formatter_class=WIDTH)
        _usage_options(sub, kind)
    return parser


def _roff(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def man(name: str, about: str, parser: argparse.ArgumentParser) -> str:
    """A man page of section 1."""
    page = Manpage(parser, {"date": "", "project_name": "p2pd", "version": __version__},
                   format="single-commands-section")  # fmt: skip
    page.date, page.manual, page.description = "", "p2pd", about
    first, *rest = (parser.usage or "").split()
    page.synopsis = [first, *(_roff(word) for word in rest)]
    rows = [
        f".TP\n.B {status} {code}".rstrip() + f"\n{_roff(text)}"
        for status, code, text in commands.EXIT_STATUSES
    ]
    if name != "p2pctl":
        rows = [
            ".TP\n.B 0\nended by SIGTERM, SIGINT or\n.BR \"p2pctl left_peer\" ,\nor only asked for help",
            ".TP\n.B 1\ncould not start; standard error says why in one line",
        ]  # fmt: skip
        signals = [
            ("SIGTERM, SIGINT", "leave the network, keep what is unfinished, and exit within 5 s; "
             "a second one ends it at once"),
            ("SIGHUP", "read the file of --config again"),
        ]  # fmt: skip
        page.add_section("signals", ">", "\n".join(f".TP\n.B {_roff(a)}\n{_roff(b)}" for a, b in signals))
    page.add_section("exit status", ">", "\n".join(rows))
    page.add_section("files", ">", FOLDERS)
    examples = (
        f"{_roff(what)}\n.PP\n.nf\n.RS\n{_roff(line)}\n.RE\n.fi\n.PP" for what, line in EXAMPLES[name]
    )
    page.add_section("examples", ">", "\n".join(examples).removesuffix("\n.PP"))
    others = [f".BR {each} (1)" for each in [*SEE_ALSO[name], "twistd"]]
    page.add_section("see also", ">", " ,\n".join(others))
    return str(page)


def files() -> dict[Path, str]:
    """Every file by its path in the project."""
    made = {
        Path("docs/man/p2pctl.1"): man(
            "p2pctl", "fetch files through a peer of p2pd, and look at it", client(False)
        ),
        Path("docs/man/p2pmanager.1"): man(
            "p2pmanager", "tell the peers of p2pd of each other", daemon("p2pmanager")
        ),
        Path("docs/man/p2ppeer.1"): man("p2ppeer", "share a folder and fetch files", daemon("p2ppeer")),
    }
    for shell, name in (("bash", "p2pctl.bash"), ("zsh", "_p2pctl"), ("fish", "p2pctl.fish")):
        made[Path("etc/completion") / name] = shtab.complete(client(True), shell)
    for shell in ("bash", "fish"):
        made[Path("etc/completion") / f"twistd.{shell}"] = shtab.complete(twistd(), shell)
    return {path: text.rstrip("\n") + "\n" for path, text in made.items()}


def main() -> None:
    """Write them all."""
    for path, text in files().items():
        (TOP / path).parent.mkdir(exist_ok=True)
        (TOP / path).write_text(text, "utf-8")
        print(path)


if __name__ == "__main__":
    main()
