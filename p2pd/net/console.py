"""Where the log goes: never in the daemon's way, whatever its reader or its disk does.

twistd's own observer writes to standard output and waits: where a pipe's reader stalls, the
reactor stands still. Here a line that cannot be written waits, up to a bound, and further
ones are counted as lost. A full disk loses lines too, and no more.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    formatEventAsClassicLogText,
    formatTime,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer

from p2pd.net.flood import REPORT_EVERY, Limiter

__all__ = ["FOR_TWISTD", "Console", "FileOut", "PipeOut", "console_for", "for_twistd"]

MAX_WAITING = 256 * 1024
"""Bytes of the log that wait for a reader."""
AT_ONCE = 4096
"""Bytes that a pipe or a socket takes without a wait where it takes any at all."""
TRY_AGAIN = 0.5
"""Seconds between tries to write what waits."""
GATHER = 0.1
"""Seconds for which lines of which there are many are gathered: to write each by itself, and to wake
whoever reads it, takes a swarm more time than all else that it does for a piece."""
AT_EXIT = 0.5
"""Seconds that the reader has at the end to take what waits."""


class Out(Protocol):
    """Takes lines; never raises, never waits."""

    @property
    def waiting(self) -> bool:
        """True where :meth:`flush` should be tried again."""

    def write(self, *lines: str) -> None:
        """Lines, with their line feeds."""

    def flush(self) -> None:
        """Write what waits, as far as that goes now."""


class PipeOut:
    """A descriptor: pipe, terminal, socket or file. ``None``: there is none."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = _without_waiting(descriptor) if descriptor is not None else None
        self._waiting = bytearray()
        self._lost = 0

    @property
    def waiting(self) -> bool:
        """Part of :class:`Out`."""
        return bool(self._waiting or self._lost) and self._descriptor is not None

    def write(self, *lines: str) -> None:
        """Part of :class:`Out`."""
        if self._descriptor is None:
            return
        for line in lines:
            self._put(line)
        self.flush()

    def _put(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace")
        # A line is lost whole, and after a lost one so is the next, until that is said.
        if self._lost or len(self._waiting) + len(data) > MAX_WAITING:
            self._lost += 1
        else:
            self._waiting += data

    def flush(self) -> None:
        """Part of :class:`Out`."""
        while self._descriptor is not None:
            if not self._waiting:
                if not self._lost:
                    return
                lost, self._lost = self._lost, 0
                self._put(f"{_now()} [-] {lost} lines of the log were lost here: they could not be written\n")
            if not _writable(self._descriptor):
                return
            try:
                count = os.write(self._descriptor, self._waiting[:AT_ONCE])
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EBADF, errno.ECONNRESET):
                    self._descriptor = None  # its reader is gone for good
                return
            del self._waiting[:count]


def _without_waiting(descriptor: int) -> int:
    """A terminal opened anew, for us alone: one that takes a byte may still make who writes more wait,
    and not to wait is a setting of the opening, which we share with the shell."""  # fmt: skip
    with contextlib.suppress(OSError):
        if os.isatty(descriptor):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{descriptor}", flags)
    return descriptor


class FileOut:
    """twistd's log file, which turns itself over as it grows, and on SIGUSR1."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._file: Any = LogFile.fromFullPath(self._path)
        self._lost = 0

    waiting = False

    def write(self, *lines: str) -> None:
        """Part of :class:`Out`."""
        said = line = "".join(lines)
        if self._lost:
            # The line that met the full disk may have lost its end.
            said = f"\n{_now()} [-] {self._lost} lines of the log were lost here: they could not be written\n"
            said += line
        try:
            self._file.write(said)
        except (OSError, ValueError, AttributeError):  # AttributeError: LogFile's own way to be closed
            self._lost += len(lines)
            self._reopen()
        else:
            self._lost = 0

    def flush(self) -> None:
        """Nothing waits."""

    def turn_over(self) -> None:
        """Begin a new file."""
        try:
            self._file.rotate()
        except (OSError, ValueError, AttributeError):
            self._reopen()

    def _reopen(self) -> None:
        # Turning over on a full disk leaves the file closed.
        if getattr(getattr(self._file, "_file", None), "closed", True):
            with contextlib.suppress(OSError):
                self._file = LogFile.fromFullPath(self._path)


@implementer(ILogObserver)
class Console:
    """The daemon's log observer. Events are limited by their kind: namespace, format and ``kind``.

    ``often`` in an event: one for each piece or file, of which more are let through.
    ``unlimited``: its origin limits itself. May be called from any thread.
    """

    def __init__(self, out: Out, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._limiter = Limiter()
        self._lock = threading.RLock()
        self._reactor: Any = None
        self._due = False
        self._gathered: list[str] = []
        self._written = float("-inf")

    def __call__(self, event: LogEvent) -> None:
        """Part of ILogObserver."""
        with self._lock:
            if event.get("unlimited") or self._limiter.allows(_kind(event), _often(event), self._clock()):
                text = formatEventAsClassicLogText(event)
                if text is not None:
                    self._write(text)
            self._look_later()

    def often(self, namespace: str, kind: str, line: str) -> None:
        """A line of a kind that there is one of for each piece: as an event of that logger would show it."""
        # As with a logger's observers: what cannot be shown stops nobody.
        with self._lock, contextlib.suppress(Exception):
            if self._limiter.allows(f"{kind} ...", True, self._clock()):
                self._gather(f"{_time(int(time.time()))} [{namespace}#info] {line}\n")
            self._look_later()

    def _gather(self, text: str) -> None:
        now = self._clock()
        if self._reactor is None or (not self._gathered and now - self._written >= GATHER):
            self._written = now
            self._out.write(text)
            return
        self._gathered.append(text)
        if len(self._gathered) == 1:
            self._reactor.callFromThread(self._reactor.callLater, GATHER, self._write_gathered)

    def _write_gathered(self) -> None:
        with self._lock:
            self._write()
            self._look_later()

    def _write(self, *lines: str) -> None:
        """In their order, also those that were gathered."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._written = self._clock()
        if gathered or lines:
            self._out.write(*gathered, *lines)

    def attach(self, reactor: Any) -> None:
        """Use ``reactor``'s time from now on; call before it runs, from a tap only."""
        self._reactor = reactor
        out = self._out
        if isinstance(out, FileOut) and not signal.getsignal(signal.SIGUSR1):
            # As twistd itself does.
            turn_over = out.turn_over
            signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(turn_over))
        reactor.addSystemEventTrigger("after", "shutdown", self._finish)
        self._look_later()

    def _look_later(self) -> None:
        if self._reactor is None or self._due or not (self._limiter.any_suppressed or self._out.waiting):
            return
        self._due = True
        self._reactor.callFromThread(self._reactor.callLater, TRY_AGAIN, self._look, self._clock())

    def _look(self, since: float) -> None:
        with self._lock:
            self._due = False
            self._out.flush()
            if self._clock() - since < REPORT_EVERY and self._limiter.any_suppressed:
                self._due = True
                self._reactor.callLater(TRY_AGAIN, self._look, since)
                return
            self._report()
            self._look_later()

    def _report(self) -> None:
        for kind, count in self._limiter.report():
            self._write(f"{_now()} [-] {count} more lines suppressed: {kind}\n")

    def _finish(self) -> None:
        deadline = self._clock() + AT_EXIT
        with self._lock:
            self._report()
            self._write()
            while self._out.waiting and self._clock() < deadline:
                time.sleep(0.02)
                self._out.flush()


def console_for(options: Mapping[str, Any]) -> Console:
    """The console that twistd's own ``options`` ask for. SystemExit where they ask for the impossible."""
    name = options.get("logfile")
    foreground = options.get("nodaemon") or options.get("debug")
    if name == "-" and not foreground:
        raise SystemExit("Daemons cannot log to stdout, exiting!")
    if foreground and name in ("-", "", None):
        # Where it was closed from the beginning, its number may be some other file's by now.
        return Console(PipeOut(sys.__stdout__.fileno() if sys.__stdout__ is not None else None))
    return Console(FileOut(str(name or "twistd.log")))


class ForTwistd:
    """Makes the console. twistd takes a log observer by the name of what makes one (``--logger``), and
    calls that after it has made the service; so what is needed for it is left here.
    """  # fmt: skip

    options: Mapping[str, Any]
    reactor: Any
    console: Console | None = None
    """The one that was made: twistd's only observer."""

    def __call__(self) -> Console:
        self.console = console = console_for(self.options)
        console.attach(self.reactor)
        return console


for_twistd = ForTwistd()
FOR_TWISTD = "p2pd.net.console.for_twistd"


def often(log: Logger, kind: str, line: str) -> None:
    """Log a line of which there is one for each piece: past the logger where the console is all that listens.

    A logger's event takes several times as long, and there are thousands of these lines each second.
    """
    if for_twistd.console is not None:
        for_twistd.console.often(log.namespace, kind, line)
    else:
        log.info("{line}", line=line, kind=kind, often=True)


def _writable(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return bool(poller.poll(0))


def _kind(event: LogEvent) -> str:
    kind = event.get("kind")
    return f"{kind} ..." if kind else str(event.get("log_format") or "a message")


@functools.lru_cache(maxsize=4)
def _time(seconds: int) -> str:
    return formatTime(seconds)


def _often(event: LogEvent) -> bool:
    return bool(event.get("often"))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
