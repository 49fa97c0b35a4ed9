"""Starting a daemon: a failed start is one sentence on standard error and status 1, whenever it fails."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from p2pd.errors import P2PError

log = Logger()


def use_monotonic_clock(reactor: Any) -> None:
    """Make ``reactor`` time by the monotonic clock; call before it runs, from a tap only.

    Twisted times by the wall clock: where that is set a day forward, all
    leases would lapse at once, and set back, no timer would ever fire.
    """
    reactor.seconds = time.monotonic


def start_or_exit(reactor: Any, starting: Coroutine[Any, Any, None]) -> Deferred[None]:
    """Run ``starting``; call in ``startService``.

    Where it fails, the sentence goes to standard error in one line. Before it
    first waits, SystemExit(1) is raised then, which twistd lets through.
    Later, the reactor is stopped (so services stop as ever), and the status
    is 1 all the same. What is no P2PError is logged with its traceback,
    besides. Cancelling what is returned stops the start without a word.
    """
    early = returned = False

    def failed(failure: Failure) -> None:
        nonlocal early
        if failure.check(P2PError):
            sentence = str(failure.value)
        else:
            log.failure("starting failed", failure)
            sentence = f"starting failed: {failure.getErrorMessage()}"
        if sys.__stderr__ is not None:  # sys.stderr is redirected into the log
            with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
                print(f"p2pd: {sentence}", file=sys.__stderr__, flush=True)
        if returned:
            _exit_later(reactor)
        else:
            early = True

    cancelled = False

    def cancel(_deferred: Deferred[None]) -> None:
        nonlocal cancelled
        cancelled = True
        inner.cancel()

    result: Deferred[None] = Deferred(cancel)

    def ended(value: Failure | None) -> None:
        if isinstance(value, Failure) and not cancelled:
            failed(value)
        if not result.called:
            result.callback(None)

    inner = Deferred.fromCoroutine(starting)
    inner.addBoth(ended)
    returned = True
    if early:
        raise SystemExit(1)
    return result


def _exit_later(reactor: Any) -> None:
    # twistd swallows SystemExit once the reactor runs, and offers no other way
    # to a status. Registered last, this runs first when Python ends, after
    # twistd has removed its pid file.
    atexit.register(_end, 1)
    reactor.callLater(0, _stop, reactor)


def _stop(reactor: Any) -> None:
    if reactor.running:
        reactor.stop()


def _end(status: int) -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(status)
