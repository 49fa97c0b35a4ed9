"""One way of moving a file, and a run of it: what every contender is measured by."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.files import make_cold, same
from benchmarks.measure import (
    BenchError,
    calm_cpu_seconds,
    forget_peaks,
    peak_rss,
    probing,
    run,
)

Pids = Callable[[], Sequence[int]]


def nothing() -> None:
    """For a contender with nothing to do there."""


def nobody() -> Sequence[int]:
    """For a side without daemons."""
    return ()


@attrs.frozen
class Contender:
    """``command`` makes a copy of the original at ``made``, which does not exist before.

    ``senders`` and ``receivers``: daemons, whose work counts besides the command's (it
    is the receiver's). ``before``: called outside the timing, just before; ``after``: when the copy is
    removed, until everything has noticed. ``data_seconds``: from the first request to the last byte
    of the last run. ``probed``: control sockets that are asked for `status` all the time.
    """

    key: str
    title: str
    command: Sequence[str]
    made: Path
    env: Mapping[str, str]
    senders: Pids
    receivers: Pids = nobody
    before: Callable[[], None] = nothing
    after: Callable[[], None] = nothing
    data_seconds: Callable[[], float] | None = None
    probed: Mapping[str, Path] | None = None


def measure(contender: Contender, original: Path, *, cold: bool) -> dict[str, Any]:
    """One run, judged by its result; BenchError where the copy is not the original.

    Seconds, processor seconds and bytes: ``seconds``, ``data_seconds`` (or None), ``sender_cpu``,
    ``receiver_cpu``, ``sender_rss``, ``receiver_rss``, ``probes`` (or None).
    """
    if contender.made.exists():
        raise BenchError(f"{contender.made} is there already")
    os.sync()
    if cold:
        make_cold(original)
    contender.before()
    try:
        senders, receivers = contender.senders(), contender.receivers()
        before = calm_cpu_seconds(senders, receivers)
        forget_peaks([*senders, *receivers])
        with contextlib.ExitStack() as stack:
            probes = stack.enter_context(probing(contender.probed)) if contender.probed else None
            ran = run(contender.command, contender.env)
        after = calm_cpu_seconds(senders, receivers)
        found = {
            "seconds": ran.seconds,
            "sender_cpu": after[0] - before[0],
            "receiver_cpu": after[1] - before[1] + ran.cpu,
            "sender_rss": peak_rss(senders),
            "receiver_rss": max(peak_rss(receivers), ran.peak),
            "data_seconds": contender.data_seconds() if contender.data_seconds else None,
            "probes": probes,
        }
        if not same(contender.made, original):
            raise BenchError(f"{contender.title}: the copy is not the original")
    finally:
        contender.made.unlink(missing_ok=True)
        contender.after()
    return found
