"""Time, processor time, memory and patience of processes, as the kernel counts them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

_TICKS = os.sysconf("SC_CLK_TCK")
_PEEK = 0.02
"""Seconds between two looks at the memory of a command that runs."""
_PATIENCE = 1200.0
"""Seconds for the slowest command: 16 GiB to a slow disk."""
_CALM = 0.1
_CALM_WITHIN = 10.0
"""A daemon that used no tick of the processor for so long has done what the run gave it to do."""


class BenchError(Exception):
    """The measurement cannot be made, or is worth nothing; the sentence says why."""


def tree(pids: Iterable[int]) -> list[int]:
    """The processes that are there, with their children and theirs."""
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
                waiting += [int(child) for child in text.split()]
            found.append(pid)
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor seconds used so far by these, their children, and the children that ended."""
    ticks = 0
    for pid in tree(pids):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS


def calm_cpu_seconds(*sides: Sequence[int]) -> list[float]:
    """:func:`cpu_seconds` of each side once all rest: what a daemon does afterwards is its work too."""
    never = threading.Event()
    deadline = time.monotonic() + _CALM_WITHIN
    used = [cpu_seconds(pids) for pids in sides]
    while time.monotonic() < deadline:
        never.wait(_CALM)
        before, used = used, [cpu_seconds(pids) for pids in sides]
        if used == before:
            break
    return used


def forget_peaks(pids: Iterable[int]) -> None:
    """Let :func:`peak_rss` count from now on."""
    for pid in tree(pids):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_rss(pids: Iterable[int]) -> int:
    """Bytes: the most memory that any one of these, or of their children, ever had (VmHWM)."""
    most = 0
    for pid in tree(pids):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    most = max(most, int(line.split()[1]) * 1024)
    return most


@attrs.frozen
class Ran:
    """A command from exec to exit. ``peak``: bytes, of its largest process, looked at 50 times a second."""

    seconds: float
    cpu: float
    peak: int


def run(command: Sequence[str], env: Mapping[str, str]) -> Ran:
    """Run a command; BenchError with what it said where its exit status is not 0, or it does not end."""
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        exited = os.pidfd_open(process.pid)
        try:
            peak = 0
            while not select.select([exited], [], [], _PEEK)[0]:
                peak = max(peak, peak_rss([process.pid]))
                if time.perf_counter() - began > _PATIENCE:
                    raise BenchError(f"{' '.join(command)}: not within {_PATIENCE} s")
            seconds = time.perf_counter() - began
        except BaseException:
            process.kill()
            raise
        finally:
            os.close(exited)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            text = said.read().decode(errors="replace")[-2000:]
            raise BenchError(f"{' '.join(command)}: exit status {process.returncode}\n{text}")
    return Ran(seconds, usage.ru_utime + usage.ru_stime, peak)


@contextlib.contextmanager
def probing(sockets: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    """Ask daemons for their ``status`` all the time; what came of it is in the dict at the end.

    For each name ``count``, and ``median``, ``p99`` and ``max`` in seconds; ``late``: the most
    that the asking process itself came late.
    """
    found: dict[str, Any] = {}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("prober.py")), *map(str, sockets.values())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise BenchError("the daemons do not answer `status`")
        yield found
        process.stdin.close()
        text = process.stdout.readline()
        if not text:
            raise BenchError("a daemon stopped answering `status`")
        *answers, late = json.loads(text)
        found.update(zip(sockets, answers, strict=True), late=late)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()
