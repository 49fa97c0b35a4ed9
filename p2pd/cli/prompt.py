"""The prompt of ``p2pctl`` without a command: the same lines, with history and completion."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from p2pd.cli import main, options
from p2pd.cli.options import Options
from p2pd.cli.render import escape
from p2pd.control import client, commands
from p2pd.errors import P2PError, UsageError

QUIT = ("q", "quit")


def prompt(chosen: Options) -> int:
    """Read and run lines until `q`, Ctrl-D or a `left_peer` that succeeded; returns 0.

    The daemon is chosen once, at the start; P2PError where that fails.
    """
    with chosen.connect() as daemon:
        here = Options(socket=daemon.path, json=chosen.json, quiet=chosen.quiet)
        name = escape(str(daemon.answer(["status"]).get("name", "")))
    if not chosen.quiet:
        print("'help' lists the commands, 'q' ends the prompt; the daemon runs on.")
    session: PromptSession[str] = PromptSession(
        f"{name}> ", history=_history(), completer=_Words(daemon.path), complete_while_typing=False
    )
    while True:
        try:
            line = session.prompt()
        except KeyboardInterrupt:
            continue  # as a shell: the line is given up, not the prompt
        except EOFError:
            return 0
        if line.strip() in QUIT:
            return 0
        if line.strip() and _run(here, line):
            return 0


def _run(here: Options, line: str) -> bool:
    """Run one line, show its errors; True where the daemon was stopped by it."""
    as_json = here.json
    try:
        typed = commands.split(line.encode("utf-8", "surrogateescape"))
        as_json = as_json or options.wants_json(typed)
        own, words = options.parse(typed)
        if own.socket is not None or own.port is not None or own.name is not None:
            raise UsageError("The daemon is chosen where the prompt begins, not in a line of it.")
        here = here._replace(json=as_json, quiet=here.quiet or own.quiet)
        if own.help:
            words = ["help", *(word for word in words[:1] if word in commands.COMMANDS)]
        if not words:
            return False
        if words[0] == "help" and not as_json:
            args = commands.parse(words)
            text = commands.help_text(args.about)
            print(text if args.about else f"{text.partition(chr(10) * 2)[0]}\n  {'q':<14}  End this prompt.")
            return False
        return main.run(here, words) == 0 and words[0] == "left_peer"
    except P2PError as error:
        main.fail(error, as_json)
    except KeyboardInterrupt:
        print()
    return False


def _history() -> History:
    """Kept in the user's state folder; in memory where that cannot be written."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".local", "state")
    folder = os.path.join(base, "p2pd")
    path = os.path.join(folder, "p2pctl-history")
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


class _Words(Completer):
    """Commands, then options; ids of transfers, names of peers and files where the daemon knows them."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        words = before.split()
        last = "" if not words or before[-1].isspace() else words.pop()
        for choice in self._choices(words, last):
            if choice.startswith(last):
                yield Completion(choice, start_position=-len(last))

    def _choices(self, words: list[str], last: str) -> list[str]:
        if not words:
            return [*commands.COMMANDS, "q"]
        command = commands.COMMANDS.get(words[0])
        if command is None:
            return []
        if last.startswith("-"):
            own = [flag for flag, metavar, _ in options.OPTIONS if not metavar]
            return [*(argument.flag for argument in command.arguments if argument.flag.startswith("-")), *own]
        if command.name == "help":
            return list(commands.COMMANDS)
        if command.name in ("cancel", "pause", "resume"):
            return self._ask("transfers", "id")
        if command.name == "pieces":
            return self._ask("files", "name")
        return self._ask("peers", "name") if words[-1] == "--from" else []

    def _ask(self, listing: str, key: str) -> list[str]:
        """What the daemon lists, as words to type; nothing where it does not answer at once."""
        try:
            with client.connect(self._path, 0.5) as daemon:
                events: list[dict[str, Any]] = list(daemon.ask([listing], 0.5))
        except P2PError:
            return []
        found = {str(event[key]) for event in events if event.get(key)}
        return sorted(commands.join([word]).decode().rstrip() for word in found if escape(word) == word)
