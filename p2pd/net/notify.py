"""Telling the service manager how the daemon is: sd_notify(3), to whoever ``$NOTIFY_SOCKET`` names.

Own code, because it is one datagram: the `sdnotify` package has had no release
since 2017, and `systemd-python` needs a C compiler and libsystemd's headers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from os import getpid
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

STATUS_INTERVAL = 5.0
"""Seconds between two looks at the status line."""

log = Logger()


class Notifier:
    """Says that the daemon is ready, how it is, and that it stops; nothing where nobody asked to be told.

    ``environ`` is systemd's: ``NOTIFY_SOCKET``, a path or ``@NAME`` for an abstract
    socket, and ``WATCHDOG_USEC`` with ``WATCHDOG_PID`` where it wants signs of life.
    What does not get through is tried again with the next beat.
    """

    def __init__(self, reactor: Any, environ: Mapping[str, str]) -> None:
        self._reactor = reactor
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog(environ) if self._address else None
        self._summary: Callable[[], str] = str
        self._status = ""
        self._pending: list[str] = []
        self._loop = LoopingCall(self._beat)
        self._loop.clock = reactor

    def ready(self, summary: Callable[[], str]) -> None:
        """The daemon can be used from now on; ``summary`` gives the status line, asked for now and then."""
        if not self._address:
            return
        self._summary = summary
        self._pending.append("READY=1")
        interval = STATUS_INTERVAL
        if self._watchdog is not None:
            interval = min(interval, self._watchdog / 3)
        self._loop.start(interval)

    def stopping(self) -> None:
        """The daemon leaves; the last thing said."""
        if not self._address:
            return
        if self._loop.running:
            self._loop.stop()
        self._pending += ["STOPPING=1", "STATUS=leaving"]
        self._send()
        self._address = ""

    def _beat(self) -> None:
        if self._watchdog is not None:
            self._pending.append("WATCHDOG=1")
        try:
            status = " ".join(self._summary().split())  # a line feed would begin another assignment
        except Exception:
            log.failure("status line")  # one bad moment must not end the signs of life
        else:
            if status != self._status:
                self._status = status
                self._pending.append(f"STATUS={status}")
        self._send()

    def _send(self) -> None:
        # Only the last of a kind counts: what waits does not grow.
        self._pending = list({each.partition("=")[0]: each for each in self._pending}.values())
        if not self._pending:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(self._pending).encode("utf-8", "replace"), self._address)
        except OSError as error:  # full, or its reader is just being started anew
            log.debug("telling the service manager: {error}", error=error)
        else:
            self._pending = []


def _address(text: str) -> str:
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else ""


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Seconds after which silence counts as death; None: nobody watches this process."""
    if environ.get("WATCHDOG_PID", str(getpid())) != str(getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 18 and int(text) > 0):
        return None
    return int(text) / 1_000_000
