"""How long the threads of this process run before others have their turn, where the system can be told.

In a crowd each daemon of a machine has a little to do all the time. If it is interrupted by each of the
others that is woken, it goes on with cold caches; if it finishes what it began, it has them once.
Since Linux 6.12 each thread may say how long its turns are to be (sched_setattr(2), `sched_runtime`); it
gets no larger part of the processor by that. SCHED_BATCH: whoever is woken interrupts nobody.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform

LONG = 0.03
"""Seconds of a long turn: more than a round takes."""
_LONG = round(LONG * 1e9)
NUMBERS = {
    "x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275), "ppc64le": (355, 356),
    "s390x": (345, 346),
}  # fmt: skip
"""Of the system calls sched_setattr and sched_getattr, on the machines that we know them of."""
_LIBC = ctypes.CDLL(None, use_errno=True)


class Attributes(ctypes.Structure):
    """The first version of struct sched_attr."""

    _fields_ = (
        ("size", ctypes.c_uint32), ("policy", ctypes.c_uint32), ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32), ("priority", ctypes.c_uint32), ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64), ("period", ctypes.c_uint64),
    )  # fmt: skip


def take(*, long: bool) -> int:
    """Long turns for all threads, or the usual ones again; how many of them that was done for.

    A thread that has another policy than the usual one, because somebody gave it that, keeps it. Nothing is
    done where the system does not let us, and nothing but the policy changes where it knows no such turns.
    """
    return sum(_change(thread, long=long) for thread in _threads())


def _threads() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return [0]  # the one that asks


def attributes(thread: int) -> Attributes:
    """Those of a thread of this process, 0 the one that asks; OSError, also for one that has ended."""
    has = Attributes()
    _call(1, thread, ctypes.byref(has), ctypes.sizeof(has), 0)
    return has


def _call(which: int, *args: object) -> None:
    numbers = NUMBERS.get(platform.machine())
    if numbers is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _LIBC.syscall(numbers[which], *args):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _change(thread: int, *, long: bool) -> bool:
    try:
        has = attributes(thread)
        ours = has.policy == os.SCHED_BATCH and has.runtime in (0, _LONG)
        if not (has.policy == os.SCHED_OTHER if long else ours):
            return False
        has.policy, has.runtime = (os.SCHED_BATCH, _LONG) if long else (os.SCHED_OTHER, 0)
        _call(0, thread, ctypes.byref(has), 0)
    except OSError:
        return False
    return True
