"""The client's own options, which may stand before or after the command, and its help."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from p2pd.control import commands
from p2pd.errors import UsageError

if TYPE_CHECKING:
    from p2pd.control import client

USAGE = "p2pctl [--socket PATH | --port N | --name NAME] [--json] [--quiet] COMMAND ..."

OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("--socket", "PATH", "the daemon whose control socket this is"),
    ("--port", "N", "the peer, else the manager, that listens on this port"),
    ("--name", "NAME", "the daemon of this name"),
    ("--json", "", "nothing but JSON lines on standard output"),
    ("--quiet", "", "no progress and no messages but errors"),
    ("--help", "", "this text, or how the command is used"),
)
"""The client's own options: flag, its value or nothing, help. They may stand before or after the command."""

WITHOUT = """Without the first three: the only daemon of this user that runs. Without a
command, on a terminal: a prompt that takes the same lines."""

_WITH_VALUE = tuple(flag for flag, metavar, _ in OPTIONS if metavar)
_FLAGS = tuple(flag for flag, metavar, _ in OPTIONS if not metavar)


class Options(NamedTuple):
    """What stood on the command line besides the command."""

    socket: str | None = None
    port: int | None = None
    name: str | None = None
    json: bool = False
    quiet: bool = False
    help: bool = False

    def connect(self) -> client.Connection:
        """Connect to the daemon that these options choose; errors as in :mod:`p2pd.control.client`."""
        from p2pd.control import client  # costs a third of the start, and help does without

        if self.socket is not None:
            return client.connect(self.socket)
        if self.port is not None:
            return client.connect_port(self.port)
        if self.name is not None:
            return client.connect_name(self.name)
        return client.connect_only()

    def command_line(self, *words: str) -> str:
        """What a person types to say ``words`` to the same daemon."""
        chosen = [
            word
            for flag, value in (("--socket", self.socket), ("--port", self.port), ("--name", self.name))
            if value is not None
            for word in (flag, str(value))
        ]
        return shlex.join(["p2pctl", *chosen, *words])


def parse(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """The options, taken out from anywhere before a ``--``, and the words of the command.

    UsageError for a missing or wrong value, or two ways to choose a daemon. What is
    right of the error is still read for ``--json``: see :func:`wants_json`.
    """
    values: dict[str, str] = {}
    flags: set[str] = set()
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        flag, equals, value = word.partition("=")
        if word == "--":
            words += [word, *rest]
        elif flag in _WITH_VALUE:
            if not equals:
                value = next(rest, "")
            if not value or value == "--":
                raise UsageError(f"The option {flag} needs a value.")
            values[flag] = value
        elif word in _FLAGS or word == "-h":
            flags.add("--help" if word == "-h" else word)
        elif word == "--version":
            words.append("version")
        else:
            words.append(word)
    if words and words[0] == "--":
        words = words[1:]
    if len(values) > 1:
        raise UsageError(f"Only one of {' and '.join(values)} can choose the daemon.")
    return (
        Options(
            socket=values.get("--socket"),
            port=_port(values["--port"]) if "--port" in values else None,
            name=values.get("--name"),
            json="--json" in flags,
            quiet="--quiet" in flags,
            help="--help" in flags,
        ),
        words,
    )


def wants_json(argv: Sequence[str]) -> bool:
    """True where ``--json`` stands before a ``--``, whatever else is wrong with the line."""
    before = argv[: list(argv).index("--")] if "--" in argv else argv
    return "--json" in before


def help_text(about: str | None = None) -> str:
    """The text of ``--help`` and ``help``, several lines."""
    if about is not None:
        return "Usage: p2pctl [OPTIONS] " + commands.help_text(about)
    lines = [f"  {f'{flag} {metavar}'.rstrip():<13}  {meaning}" for flag, metavar, meaning in OPTIONS]
    own = "\n".join(["Options, before or after the command:", *lines, WITHOUT])
    return "\n\n".join([f"Usage: {USAGE}", commands.help_text(), own])


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise UsageError(f"The port {text!r} is not a number from 1 to 65535.")
    return int(text)
