"""What the command lines of both daemons have in common: ``--config``, and reading it again."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from p2pd.errors import P2PError, UsageError
from p2pd.net.config import ConfigFile, read_config
from p2pd.net.console import FOR_TWISTD, for_twistd
from p2pd.text import escape

TWISTD_PIDFILE = "twistd.pid"
"""twistd's default; two daemons in one directory would be in each other's way by it."""

T = TypeVar("T")
log = Logger()


class _Default(str):
    """A value that nobody gave."""


class DaemonOptions(usage.Options):
    """Base of both: merges the file of ``--config`` with the command line, which wins.

    A subclass has ``optParameters`` and ``optFlags``, names in ``numbers`` and
    ``switches`` what the file may give as such, in ``at_run_time`` what can change while
    the daemon runs, and checks everything in :meth:`check`, with usage.UsageErrors that
    begin with ``--NAME:``. ``settings`` are the merged values before the check.
    """

    numbers: ClassVar[frozenset[str]] = frozenset()
    switches: ClassVar[frozenset[str]] = frozenset()
    at_run_time: ClassVar[frozenset[str]] = frozenset()
    against: ClassVar[dict[str, str]] = {}
    """Names in the file that do not count where the other one is said on the command line."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._words: list[str] = []
        self.settings: dict[str, Any] = {}
        self.file: ConfigFile | None = None
        self._from_file: set[str] = set()
        for name, value in self.items():
            if isinstance(value, str):
                self[name] = _Default(value)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Part of usage.Options; the words are kept, to be read again.

        Under twistd, what is wrong ends the start as in :mod:`p2pd.net.starting`: twistd would
        print the whole help, and all of it on standard output.
        """
        self._words = list(options) if options is not None else []
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            if self.parent is None:
                raise
            with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
                print(f"p2pd: {escape(str(error))}", file=sys.stderr, flush=True)
            raise SystemExit(1) from None

    def parseArgs(self, *args: str) -> None:
        """There are none; Twisted would not say which one is too many."""
        if args:
            raise usage.UsageError(f"{args[0]!r}: only options are expected")

    def postOptions(self) -> None:
        """Merge and check, before anything is opened. usage.UsageError names the option, or file and line."""
        # Several daemons run in one folder: twistd's pid file would forbid the second one.
        parent = cast("dict[str, Any] | None", self.parent)
        if parent is not None and parent.get("pidfile") == TWISTD_PIDFILE:
            parent["pidfile"] = ""
        if parent is not None and not parent.get("logger") and not parent.get("syslog"):
            parent["logger"] = FOR_TWISTD
            for_twistd.options = parent
        if self["config"] == "":
            raise usage.UsageError("--config: a value is missing")
        if self["config"] is not None:
            self["config"] = os.path.abspath(self["config"])
            self._merge(Path(self["config"]))
        self.settings = {name: value for name, value in self.items() if name != "config"}
        try:
            self.check()
        except usage.UsageError as error:
            raise self._located(str(error)) from None

    def check(self) -> None:
        """Check every option."""
        raise NotImplementedError

    def again(self) -> DaemonOptions:
        """The same command line with the file as it is now. usage.UsageError as at the start."""
        fresh = type(self)()
        fresh.parseOptions([*self._words, "--config", self["config"]])
        return fresh

    def number(self, name: str, high: int) -> int:
        """A whole number from 1 to ``high``."""
        text = self[name]
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= high):
            raise usage.UsageError(f"--{name}: {text!r} is not a whole number from 1 to {high}")
        return int(text)

    def checked(self, name: str, check: Callable[[str], T]) -> T:
        """What ``check`` makes of the value; its P2PError becomes one that names the option."""
        try:
            return check(self[name])
        except P2PError as error:
            raise usage.UsageError(f"--{name}: {error}") from None

    def _merge(self, path: Path) -> None:
        flags = [flag[0] for flag in getattr(self, "optFlags", ())]
        options = [name for name in self if name != "config" and name not in flags]
        try:
            self.file = read_config(path, options, flags, self.numbers, self.switches)
        except UsageError as error:
            raise usage.UsageError(f"--config: {error}") from None
        said = {
            name for name, given in self.items() if given not in (None, 0) and not isinstance(given, _Default)
        }
        for name, value in self.file.values.items():
            if name not in said and self.against.get(name) not in said:
                self[name] = value
                self._from_file.add(name)

    def _located(self, sentence: str) -> usage.UsageError:
        """A fault of the file's is said with the place there."""
        name, colon, rest = sentence.removeprefix("--").partition(":")
        if self.file is None or name not in self._from_file or not colon:
            return usage.UsageError(sentence)
        return usage.UsageError(f"--config: {self.file.where(name)}: {name}:{rest}")


class Daemon(Protocol):
    """What takes new settings."""

    config_problem: str
    """Why the file could not be read again, or empty; for `problems`."""


class Reloader:
    """Reads ``options``' file again by :meth:`reload`; ``apply`` is given what can change while it runs."""

    def __init__(
        self, reactor: Any, options: DaemonOptions, daemon: Daemon, apply: Callable[[DaemonOptions], None]
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._daemon = daemon
        self._apply = apply
        self._settings = dict(options.settings)
        self._reading = self._once_more = False

    def reload(self) -> None:
        """Take what can be taken, and say what was done. A bad file changes nothing."""
        if self._options["config"] is None:
            log.info("SIGHUP: there is no --config file to read again")
        elif self._reading:
            self._once_more = True
        else:
            self._reading = True
            # In a thread: a host name in it may have to be looked up.
            pool = self._reactor.getThreadPool()
            deferToThreadPool(self._reactor, pool, self._options.again).addCallbacks(
                self._take, self._keep
            ).addErrback(lambda failure: log.failure("SIGHUP", failure)).addBoth(self._ended)

    def _ended(self, _: object) -> None:
        self._reading, again, self._once_more = False, self._once_more, False
        if again:
            self.reload()

    def _keep(self, failure: Failure) -> None:
        failure.trap(usage.UsageError)
        sentence = str(failure.value).removeprefix("--config: ")
        self._daemon.config_problem = f"{sentence}; the settings of before are kept."
        log.warn("SIGHUP: {sentence}; the settings of before are kept", sentence=sentence)

    def _take(self, fresh: DaemonOptions) -> None:
        shown = escape(self._options["config"])
        changed = [name for name, value in fresh.settings.items() if value != self._settings.get(name)]
        now = [name for name in changed if name in self._options.at_run_time]
        later = [name for name in changed if name not in now]
        self._daemon.config_problem = ""
        self._apply(fresh)
        self._settings.update({name: fresh.settings[name] for name in now})
        done = ", ".join(f"{name} is {escape(str(fresh.settings[name]))} now" for name in now)
        log.info("SIGHUP: {path} was read again: {what}", path=shown, what=done or "nothing to change now")
        if later:
            names = ", ".join(later)
            log.warn("SIGHUP: {path}: a new {names} needs a restart", names=names, path=shown)
