"""How long a thread runs before others have their turn, where the system can be told.

In a crowd each daemon of a machine has a little to do all the time. If it is interrupted by each of the
others that is woken, it goes on with cold caches; if it finishes what it began, it has them once.
Since Linux 6.12 each thread may say how long its turns are to be (sched_setattr(2), `sched_runtime`); it
gets no larger part of the processor by that. Threads that it starts meanwhile have such
turns, too, until they give them back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Callable
from typing import TypeVar

LONG = 0.03
"""Seconds of a long turn: more than a round takes."""
_LONG = round(LONG * 1e9)
NUMBERS = {
    "x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275), "ppc64le": (355, 356),
    "s390x": (345, 346),
}  # fmt: skip
"""Of the system calls sched_setattr and sched_getattr, on the machines that we know them of."""
T = TypeVar("T")
_LIBC = ctypes.CDLL(None, use_errno=True)


class Attributes(ctypes.Structure):
    """The first version of struct sched_attr."""

    _fields_ = (
        ("size", ctypes.c_uint32), ("policy", ctypes.c_uint32), ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32), ("priority", ctypes.c_uint32), ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64), ("period", ctypes.c_uint64),
    )  # fmt: skip


def take() -> int | None:
    """Long turns for the thread that asks; its nanoseconds before, for :func:`give_back`.

    None where nothing was changed: somebody gave the thread turns as long, or another policy than the usual
    one; or the system does not let us, or knows no such turns.
    """
    try:
        has = attributes()
        before = int(has.runtime)
        if has.policy != os.SCHED_OTHER or not 0 < before < _LONG:
            return None
        _set(has, _LONG)
    except OSError:
        return None
    return before


def give_back(before: int = 0) -> bool:
    """The thread that asks has the turns again that it had ``before``; 0: the usual ones.

    False where nothing was changed: what it has is not what :func:`take` set, or the system does not let us.
    """
    try:
        has = attributes()
        if has.policy != os.SCHED_OTHER or has.runtime != _LONG:
            return False
        _set(has, 0)  # the system's own: they follow where that changes
        if before and attributes().runtime != before:
            _set(has, before)
    except OSError:
        return False
    return True


def usual(work: Callable[[], T]) -> T:
    """Do ``work`` with the usual turns: who started this thread may have long ones, and it has them, too."""
    give_back()
    return work()


def attributes() -> Attributes:
    """Those of the thread that asks; OSError where the system does not say."""
    has = Attributes()
    _call(1, 0, ctypes.byref(has), ctypes.sizeof(has), 0)
    return has


def _set(attributes: Attributes, runtime: int) -> None:
    attributes.runtime = runtime
    _call(0, 0, ctypes.byref(attributes), 0)


def _call(which: int, *args: object) -> None:
    numbers = NUMBERS.get(platform.machine())
    if numbers is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _LIBC.syscall(numbers[which], *args):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
