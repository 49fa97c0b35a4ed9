"""``p2pctl``: chooses a daemon, sends it one command, shows the answer.

Starts fast: neither Twisted nor anything of the daemons is imported, rich and
prompt_toolkit only where something is drawn.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from p2pd import __version__
from p2pd.cli import options
from p2pd.cli.options import Options
from p2pd.control import commands
from p2pd.errors import P2PError, UsageError

if TYPE_CHECKING:
    from p2pd.control import client

INTERRUPTED = 130
"""The exit status after Ctrl-C, as of any program that SIGINT ends."""
_PATIENCE = 30.0
"""Seconds without a word from the daemon, where the answer should come at once."""


def entry() -> int:
    """The program ``p2pctl``; returns its exit status."""
    import signal

    # a reader that has seen enough (`| head`) ends us without a word
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    return main(sys.argv[1:])


def main(argv: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    try:
        chosen, words = options.parse(argv)
        if words or chosen.help:
            return run(chosen, words)
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError(f"A command is missing. Usage: {options.USAGE}")
        from p2pd.cli.prompt import prompt

        return prompt(chosen)
    except P2PError as error:
        return fail(error, options.wants_json(argv))
    except KeyboardInterrupt:
        return INTERRUPTED


def fail(error: P2PError, as_json: bool) -> int:
    """Show ``error``; returns its exit status."""
    if as_json:
        _print_json({"event": "failed", "code": error.code, "message": error.message, **error.details})
    else:
        from p2pd.cli import render

        sys.stdout.flush()
        print(render.failure(error.message, error.details), file=sys.stderr)
    return error.exit_status


def run(chosen: Options, words: list[str]) -> int:
    """Run the command ``words``; returns the exit status, raises P2PError or KeyboardInterrupt."""
    if chosen.help:
        return _help(chosen, words[0] if words and words[0] in commands.COMMANDS else None)
    args = commands.parse(words)
    if args.command == "help":
        return _help(chosen, args.about)
    if args.command == "version":
        return _version(chosen)
    if args.command == "simulate":
        return _simulate(chosen, args)
    if args.command == "doctor":
        from p2pd.cli import doctor

        return doctor.run(chosen)
    with chosen.connect() as daemon:
        if args.command == "req":
            return _req(chosen, daemon, words, args.file, args.no_wait)
        if args.command == "transfers" and args.watch:
            return _watch(chosen, daemon, words)
        if commands.COMMANDS[args.command].listing:
            return _list(chosen, daemon, words)
        return _simple(chosen, daemon, words)


def _help(chosen: Options, about: str | None) -> int:
    text = options.help_text(about)
    if chosen.json:
        _print_json({"text": text})
    else:
        print(text)
    return 0


def _version(chosen: Options) -> int:
    """The client's version; the daemon's too where one was chosen, for only then it is worth the wait."""
    answer = {"version": __version__}
    if chosen.socket or chosen.port or chosen.name:
        with chosen.connect() as daemon:
            answer["daemon"] = str(daemon.answer(["version"], _PATIENCE).get("version"))
    if chosen.json:
        _print_json(answer)
    else:
        from p2pd.text import escape

        print(f"p2pctl {__version__}")
        if "daemon" in answer:
            print(f"daemon {escape(answer['daemon'])}")
    return 0


def _simulate(chosen: Options, args: Any) -> int:
    # By name: nothing that a quick command imports leads there.
    simulating = importlib.import_module("p2pd.simulate.command")
    found = simulating.simulate(args)
    if chosen.json:
        _print_json(found)
    else:
        print(simulating.text(found))
    return 0


def _req(chosen: Options, daemon: client.Connection, words: list[str], file: str, no_wait: bool) -> int:
    from p2pd.cli.progress import Reporter

    reporter = Reporter(chosen.quiet or chosen.json)
    transfer: str | None = None
    try:
        with daemon.interruptible():
            for event in daemon.ask(words):
                kind = event.get("event")
                if kind == "started":
                    transfer = str(event.get("transfer"))
                if chosen.json:
                    if not (kind == "done" and no_wait and transfer is not None):
                        _print_json(event)
                        sys.stdout.flush()
                elif kind == "done":
                    reporter.event(event)
                    reporter.close()
                    _print_received(event, transfer if no_wait else None, chosen.quiet)
                else:
                    reporter.event(event)
    except KeyboardInterrupt:
        reporter.close()
        if not chosen.quiet:
            _say_how_to_come_back(chosen, file, transfer)
        return INTERRUPTED
    finally:
        reporter.close()
    return 0


def _print_received(event: dict[str, Any], transfer: str | None, quiet: bool) -> None:
    from p2pd.cli import render

    if transfer is not None:
        print(f"started transfer {render.escape(transfer)}")
    else:
        print(render.received(event), flush=True)
        why = render.why_slow(event)
        if why is not None and not quiet:
            print(why, file=sys.stderr)


def _say_how_to_come_back(chosen: Options, file: str, transfer: str | None) -> None:
    from p2pd.text import escape

    if transfer is None:
        text = "Interrupted before a transfer began."
    else:
        again = ["req", "--", file] if file.startswith("-") else ["req", file]
        text = "\n".join(
            [
                "",
                "Interrupted; the transfer goes on without you.",
                f"  to watch it again: {escape(chosen.command_line(*again))}",
                f"  to see it listed:  {escape(chosen.command_line('transfers'))}",
                f"  to end it:         {escape(chosen.command_line('cancel', transfer))}",
            ]
        )
    print(text, file=sys.stderr)


def _list(chosen: Options, daemon: client.Connection, words: list[str]) -> int:
    rows: list[dict[str, Any]] = []
    for event in daemon.ask(words, _PATIENCE):
        if event.pop("event", None) != "item":
            continue
        if chosen.json:
            _print_json(event)
        else:
            rows.append(event)
    if not chosen.json:
        from p2pd.cli import render

        render.listing(words[0], rows)
    return 0


def _watch(chosen: Options, daemon: client.Connection, words: list[str]) -> int:
    """Show every change until Ctrl-C, or until the daemon stops: that raises its P2PError."""
    from p2pd.cli.progress import Watcher

    watcher = None if chosen.json else Watcher(words[0])
    try:
        with daemon.interruptible():
            for event in daemon.ask(words):
                kind = event.pop("event", None)
                if watcher is not None:
                    watcher.event(str(kind), event, more=daemon.more)
                elif kind == "item":
                    _print_json(event)
                    sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if watcher is not None:
            watcher.close()
    return 0


def _simple(chosen: Options, daemon: client.Connection, words: list[str]) -> int:
    from p2pd.control import client

    ours = client.identity(daemon.path)
    answer = daemon.answer(words, _PATIENCE)
    if words[0] == "left_peer":
        daemon.wait_for_end()
        if ours is not None and client.identity(daemon.path) == ours:
            raise P2PError(f"The daemon has ended, but its control socket is still there: {daemon.path}")
    if words[0] in ("status", "limits"):
        answer.pop("event", None)
    if chosen.json:
        _print_json(answer)
    elif words[0] in ("status", "limits"):
        from p2pd.cli import render

        print(render.status(answer) if words[0] == "status" else render.limits(answer))
    elif not chosen.quiet:
        done = {"left_peer": "left", "cancel": "cancelled", "pause": "paused", "resume": "resumed"}
        print(" ".join([done[words[0]], *words[1:2]]), file=sys.stderr)
    return 0


def _print_json(event: dict[str, Any]) -> None:
    import json

    print(json.dumps(event))
