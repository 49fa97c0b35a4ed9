"""SIGTERM and SIGINT stop the daemon with status 0, a second one at once; SIGHUP reads the settings again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

GRACE = 4.5
"""Seconds that leaving may take before the process ends without it; 5 s are promised."""


def install_signals(reactor: Any, reload: Callable[[], None] | None = None) -> None:
    """Take over these signals. Call before ``reactor`` runs; from a tap only.

    twistd's own handlers re-raise the signal after the reactor has stopped, so
    that the status would be -15 instead of 0. SIGHUP, which twistd leaves alone and
    which would kill, calls ``reload`` on the reactor; where it says that the terminal
    that the daemon was started on is gone, the daemon stops. One that is ignored (nohup)
    stays so. twistd's SIGUSR1 (to turn a log file over) is not touched.
    """
    stopping = False
    terminal = _terminal()

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

    def hung_up(number: int, frame: FrameType | None) -> None:
        if reload is None or (terminal and not _terminal()):
            if not stopping:
                stop(number, frame)
        else:
            reactor.callFromThread(reload)

    def install() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, hung_up)

    install()
    reactor.callWhenRunning(install)  # the reactor puts its own in their place when it starts


def _terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _stop(reactor: Any) -> None:
    if reactor.running:
        reactor.stop()
