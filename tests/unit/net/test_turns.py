"""How long turns are: of all threads, taken back, nothing where the system or somebody else wants it so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from p2pd.net import turns


@pytest.fixture
def other() -> Iterator[int]:
    """A thread that does nothing; its number."""
    end, begun = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(30)
    assert thread.native_id is not None
    yield thread.native_id
    end.set()
    thread.join()
    turns.take(long=False)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def slice_of(thread: int) -> int:
    """Nanoseconds of its turns."""
    return int(turns.attributes(thread).runtime)


def test_all_threads_have_long_turns_until_they_have_the_usual_ones(other: int) -> None:
    usual = slice_of(0)
    # Threads of other tests may end meanwhile.
    assert turns.take(long=True) >= 2
    for thread in (0, other):
        assert os.sched_getscheduler(thread) == os.SCHED_BATCH
        assert slice_of(thread) in (usual, round(turns.LONG * 1e9)), (
            "a system before Linux 6.12 has one for all"
        )
    assert turns.take(long=True) == 0, "they have them"
    assert turns.take(long=False) >= 2
    for thread in (0, other):
        assert os.sched_getscheduler(thread) == os.SCHED_OTHER
        assert slice_of(thread) == usual
    assert turns.take(long=False) == 0


def test_what_somebody_else_set_stays(other: int) -> None:
    for policy in (os.SCHED_IDLE, os.SCHED_BATCH):
        os.sched_setscheduler(other, policy, os.sched_param(0))
        turns.take(long=True)
        assert os.sched_getscheduler(other) == policy
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
        if policy == os.SCHED_IDLE:
            turns.take(long=False)
            assert os.sched_getscheduler(other) == policy
            turns.take(long=False)


def test_its_priority_stays() -> None:
    code = """
import os
from p2pd.net import turns
os.nice(7)
assert turns.take(long=True) == 1
assert os.getpriority(os.PRIO_PROCESS, 0) == 7
assert turns.take(long=False) == 1
assert os.getpriority(os.PRIO_PROCESS, 0) == 7
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("refuses", ["set", "get", "machine", "proc"])
def test_where_the_system_does_not_let_us_nothing_happens(
    refuses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if refuses == "machine":
        monkeypatch.setattr("platform.machine", lambda: "vax")
    elif refuses == "proc":
        monkeypatch.setattr("os.listdir", lambda _: os.stat("/proc/self/no/such"))
    else:
        real = turns._LIBC.syscall
        put, _ = turns.NUMBERS[os.uname().machine]

        class Libc:
            @staticmethod
            def syscall(number: int, *args: object) -> int:
                return -1 if (number == put) == (refuses == "set") else int(real(number, *args))

        monkeypatch.setattr(turns, "_LIBC", Libc)
    try:
        expected = 1 if refuses == "proc" else 0  # without /proc it is the one thread that asks
        assert turns.take(long=True) == expected
        assert os.sched_getscheduler(0) == (os.SCHED_BATCH if expected else os.SCHED_OTHER)
    finally:
        turns.take(long=False)
