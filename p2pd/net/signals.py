"""SIGTERM and SIGINT: the first one stops the daemon with status 0, the second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

GRACE = 4.5
"""Seconds that leaving may take before the process ends without it; 5 s are promised."""


def install_signals(reactor: Any) -> None:
    """Take over both signals. Call before ``reactor`` runs; from a tap only.

    twistd's own handlers re-raise the signal after the reactor has stopped, so
    that the status would be -15 instead of 0.
    """
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        stopping = True
        # A thread, because what hangs may be the reactor or the joining of its
        # thread pool; what is unfinished is safe on disk at any moment.
        guard = threading.Timer(GRACE, os._exit, (0,))
        guard.daemon = True
        guard.start()
        reactor.callFromThread(_stop, reactor)

    def install() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)

    install()
    reactor.callWhenRunning(install)  # the reactor puts its own in their place when it starts


def _stop(reactor: Any) -> None:
    if reactor.running:
        reactor.stop()
