"""The one table of commands: name, arguments, help, who has it.

The client parses its arguments with it, the server the lines that come in, and
both take their help from it. Standard library only; parsers are built when used.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, NoReturn

from p2pd.errors import UsageError
from p2pd.sizes import parse_rate, parse_size

MAX_LINE = 64 * 1024
"""Bytes in a line to the control socket, without its line feed."""


class Argument(NamedTuple):
    """One argument or option: ``flag`` and what argparse is told about it."""

    flag: str
    metavar: str
    help: str
    settings: dict[str, Any]

    @property
    def usage(self) -> str:
        """As it stands in a usage line: ``FILE``, ``[--id ID]``."""
        if not self.flag.startswith("-"):
            return f"[{self.metavar}]" if self.settings.get("nargs") == "?" else self.metavar
        if not self.metavar:
            return f"[{self.flag}]"
        more = " ..." if self.settings.get("nargs") == "+" else ""
        return f"[{self.flag} {self.metavar}{more}]"


class Command(NamedTuple):
    """One command; ``roles``: the daemons that have it; ``listing``: its answer is a list of objects."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    roles: tuple[str, ...] = ("peer",)
    listing: bool = False

    @property
    def usage(self) -> str:
        """The command with its arguments on one line."""
        return " ".join([self.name, *(argument.usage for argument in self.arguments)])


def _hex64(text: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not 64 lower-case hex digits")
    return text


def _sha256(text: str) -> str:
    if re.fullmatch("[0-9a-fA-F]{64}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a SHA-256 digest of 64 hex digits")
    return text.lower()


def _seconds(text: str) -> float:
    # float() alone takes "1_0", " 7", "nan" and digits of other scripts
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}", text) is None or not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    seconds = float(text)
    assert math.isfinite(seconds)
    return seconds


def _rate(text: str) -> int | None:
    try:
        return parse_rate(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _link(text: str) -> int:
    rate = _rate(text)
    if rate is None:
        raise argparse.ArgumentTypeError("a link has a rate")
    return rate


_LINK: dict[str, Any] = {"type": _link, "default": 12_500_000}
_FILE = Argument("file", "FILE", "name inside a share, '/'-separated", {})
_TRANSFER = Argument("id", "ID", "the transfer's id, as 'transfers' shows it", {})
_BOTH = ("peer", "manager")
_RATE: dict[str, Any] = {"type": _rate, "default": ...}
"""Not said: as it is; None, no limit, can be said."""

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "req",
            "Fetch a file from everybody who has it.",
            (
                _FILE,
                Argument(
                    "--no-wait", "", "return once the transfer would survive a kill", {"action": "store_true"}
                ),
                Argument("--id", "ID", "the content wanted, where there are several", {"type": _hex64}),
                Argument("--sha256", "HEX", "the digest that the whole file must have", {"type": _sha256}),
                Argument("--output", "NAME", "name inside this peer's share", {}),
                Argument("--replace", "", "replace a different file of that name", {"action": "store_true"}),
                Argument(
                    "--from",
                    "NAME",
                    "fetch from these peers only",
                    {"dest": "from_", "nargs": "+", "action": "append", "default": []},
                ),
                Argument(
                    "--timeout",
                    "S",
                    "seconds without any source before giving up waiting (30)",
                    {"type": _seconds, "default": 30.0},
                ),
            ),
        ),
        Command(
            "left_peer",
            "Leave the network and stop the daemon; what is unfinished goes on next time.",
            roles=_BOTH,
        ),
        Command("peers", "List the other active peers.", roles=_BOTH, listing=True),
        Command("files", "List what this peer shares.", listing=True),
        Command(
            "transfers",
            "List what comes and goes, and what holds it up; ended ones for an hour.",
            (Argument("--watch", "", "go on, and show every change", {"action": "store_true"}),),
            listing=True,
        ),
        Command("cancel", "End a transfer and drop what came of it.", (_TRANSFER,)),
        Command("pause", "Let a transfer rest.", (_TRANSFER,)),
        Command("resume", "Let a paused transfer go on.", (_TRANSFER,)),
        Command("pieces", "List which pieces of a file are here.", (_FILE,), listing=True),
        Command(
            "limits",
            "Show how many bytes may go and come in a second, or change that.",
            (
                Argument("--up", "RATE", "at most so much goes out: 500K, 2Mi; off: no limit", _RATE),
                Argument("--down", "RATE", "at most so much comes in", _RATE),
            ),
        ),
        Command("status", "Show the daemon at a glance.", roles=_BOTH),
        Command("doctor", "Look at what commonly goes wrong, and say what to do.", roles=_BOTH, listing=True),
        Command(
            "simulate",
            "Simulate a swarm: how long it takes, and how long it would have to.",
            (
                Argument("--peers", "N", "how many fetch it (8)", {"type": int, "default": 8}),
                Argument("--size", "SIZE", "of the file (256Mi)", {"type": _size, "default": 256 * 2**20}),
                Argument("--piece-size", "SIZE", "of its pieces", {"type": _size, "default": 0}),
                Argument("--up", "RATE", "bytes per second of each (12.5M)", _LINK),
                Argument("--down", "RATE", "bytes per second to each (12.5M)", _LINK),
                Argument("--owner-up", "RATE", "of the first holder, if it is another", {"type": _link}),
                Argument("--slow", "RATE", "one of them has only this, both ways", {"type": _link}),
                Argument(
                    "--stagger", "S", "seconds between the starts (0)", {"type": _seconds, "default": 0.0}
                ),
                Argument("--fail", "N", "so many die when they hold half (0)", {"type": int, "default": 0}),
                Argument("--seed", "N", "of all that is random (1)", {"type": int, "default": 1}),
                Argument("--trace", "FILE", "write every piece that comes, as JSON lines", {}),
                Argument("--plot", "FILE", "draw the pieces held over time, as .png or .svg", {}),
            ),
            roles=(),
        ),
        Command("version", "Show the version.", roles=_BOTH),
        Command(
            "help",
            "Show the commands, or how one is used.",
            (Argument("about", "COMMAND", "the command to explain", {"nargs": "?"}),),
            roles=_BOTH,
        ),
    )
}
"""Every command by its name, in the order that help lists them."""

EXIT_STATUSES: tuple[tuple[int, str, str], ...] = (
    (0, "", "done (also: already here with the same content)"),
    (1, "failed", "anything not named below"),
    (2, "usage", "the command line is wrong, or the name not canonical"),
    (3, "no-daemon", "no daemon answers on the socket"),
    (4, "not-found", "nobody has the file, or there is no such transfer"),
    (5, "no-sources", "all sources were lost; what came is kept, it goes on when one returns"),
    (6, "verify-failed", "what was fetched does not match the digest given; nothing is left of it"),
    (7, "conflict", "the name stands for different contents, or another file of it is here"),
    (8, "storage", "disk full, permission, I/O error; what came is kept"),
    (9, "refused", "the other side refused: full, not allowed, name taken"),
    (130, "", "interrupted by Ctrl-C; a transfer goes on"),
)
"""Status, code and meaning, as ``help`` and ``--help`` show them."""


class _Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise UsageError(message or self.prog)


@cache
def _parser(name: str) -> _Parser:
    parser = _Parser(prog=name, add_help=False, allow_abbrev=False)
    for argument in COMMANDS[name].arguments:
        settings = dict(argument.settings)
        if argument.metavar:
            settings["metavar"] = argument.metavar
        if argument.flag == "file" and "--from" in COMMANDS[name].usage:
            settings["nargs"] = "?"  # see _file_among_sources
        parser.add_argument(argument.flag, **settings)
    return parser


def prepare() -> None:
    """Make now what parsing takes, 6 ms in all: not when a transfer begins."""
    for name in COMMANDS:
        _parser(name)


def parse(words: Sequence[str], role: str | None = None) -> argparse.Namespace:
    """The arguments of one command, with ``command`` its name.

    ``role``: `peer` or `manager` where only that daemon's commands will do. Options
    become attributes (``no_wait``, ``sha256``); ``from_`` is a list of names,
    ``timeout`` seconds. UsageError with a sentence for anything wrong.
    """
    if not words:
        raise UsageError("A command is missing; 'help' lists them.")
    command = COMMANDS.get(words[0])
    if command is None:
        raise UsageError(f"There is no command {words[0]!r}; 'help' lists them.")
    if role is not None and role not in command.roles:
        raise UsageError(f"A {role} has no command {command.name!r}; 'help' lists those it has.")
    args = _parser(command.name).parse_args(list(words[1:]))
    args.command = command.name
    if command.name == "req":
        _file_among_sources(args)
    if command.name == "help" and args.about is not None and args.about not in COMMANDS:
        raise UsageError(f"There is no command {args.about!r}; 'help' lists them.")
    return args


def _file_among_sources(args: argparse.Namespace) -> None:
    """``req --from NAME FILE``: argparse gives both words to --from, though only one can be meant."""
    groups: list[list[str]] = args.from_
    if args.file is None:
        several = [group for group in groups if len(group) > 1]
        if len(several) != 1:
            raise UsageError("req: the following arguments are required: FILE")
        several[0], args.file = several[0], several[0].pop()
    args.from_ = [name for group in groups for name in group]


def split(line: bytes) -> list[str]:
    """The words of a line as a shell would quote them; UsageError for bad UTF-8 or quotes."""
    try:
        return shlex.split(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError("The line is not valid UTF-8.") from error
    except ValueError as error:
        raise UsageError(f"The line is not well quoted: {error}.") from error


def join(words: Sequence[str]) -> bytes:
    """The line, with its line feed, that :func:`split` takes apart into ``words``.

    UsageError for what no line can hold: line feeds, bytes that are no UTF-8, too much.
    """
    text = shlex.join(words)
    if "\n" in text:
        raise UsageError("A command is one line: no word of it can hold a line feed.")
    try:
        line = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError("The command holds bytes that are not UTF-8.") from error
    if len(line) > MAX_LINE:
        raise UsageError(f"The command is longer than {MAX_LINE} bytes.")
    return line + b"\n"


def help_text(about: str | None = None, role: str | None = None) -> str:
    """Help for a person, several lines: on one command, or on all (of ``role``) and the exit statuses."""
    if about is not None:
        command = COMMANDS[about]
        rows = [
            (f"{a.flag} {a.metavar}".rstrip() if a.flag.startswith("-") else a.metavar, a.help)
            for a in command.arguments
        ]
        return "\n".join([command.usage, "", f"  {command.help}", *([""] if rows else []), *_columns(rows)])
    listed = [command for command in COMMANDS.values() if role is None or role in command.roles]
    rows = [
        (" ".join([c.name, *(a.usage for a in c.arguments if not a.flag.startswith("-"))]), c.help)
        for c in listed
    ]
    statuses = [(f"{status} {code}".rstrip(), meaning) for status, code, meaning in EXIT_STATUSES]
    return "\n".join(["Commands:", *_columns(rows), "", "Exit status:", *_columns(statuses)])


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(left) for left, _ in rows), default=0)
    return [f"  {left:<{width}}  {right}" for left, right in rows]
