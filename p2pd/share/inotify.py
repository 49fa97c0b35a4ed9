"""A small inotify reader. Folders are watched through a descriptor, so that no link is ever followed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import threading

import attrs

MODIFY = 0x00000002
ATTRIB = 0x00000004
CLOSE_WRITE = 0x00000008
MOVED_FROM = 0x00000040
MOVED_TO = 0x00000080
CREATE = 0x00000100
DELETE = 0x00000200
DELETE_SELF = 0x00000400
MOVE_SELF = 0x00000800
UNMOUNT = 0x00002000
Q_OVERFLOW = 0x00004000
IGNORED = 0x00008000
ISDIR = 0x40000000
_ONLYDIR = 0x01000000

_MASK = (
    MODIFY
    | ATTRIB
    | CLOSE_WRITE
    | MOVED_FROM
    | MOVED_TO
    | CREATE
    | DELETE
    | DELETE_SELF
    | MOVE_SELF
    | _ONLYDIR
)
_HEADER = struct.Struct("iIII")
_READ = 256 * 1024
_LIBC = ctypes.CDLL(None, use_errno=True)


@attrs.frozen
class Event:
    """One event: of the watch ``wd``, a mask of the constants above, and the entry's name or b""."""

    wd: int
    mask: int
    name: bytes


class Inotify:
    """One inotify instance; used by one thread."""

    def __init__(self) -> None:
        """OSError where there is no inotify or this user has too many instances."""
        try:
            self.fd = int(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        except AttributeError:
            raise OSError(errno.ENOSYS, "no inotify") from None
        if self.fd < 0:
            raise _error()

    def add(self, folder_fd: int) -> int:
        """Watch the folder; its watch descriptor. OSError ENOSPC: the limit of watches is reached."""
        wd = int(_LIBC.inotify_add_watch(self.fd, b"/proc/self/fd/%d" % folder_fd, _MASK))
        if wd < 0:
            raise _error()
        return wd

    def remove(self, wd: int) -> None:
        """Stop watching; nothing happens where the folder is gone already."""
        _LIBC.inotify_rm_watch(self.fd, wd)

    def read(self) -> list[Event]:
        """The events there are; an empty list where there are none."""
        try:
            data = os.read(self.fd, _READ)
        except BlockingIOError:
            return []
        events: list[Event] = []
        at = 0
        while at < len(data):
            wd, mask, _cookie, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            events.append(Event(wd, mask, data[at : at + length].rstrip(b"\0")))
            at += length
        return events

    def close(self) -> None:
        """Drop all watches."""
        os.close(self.fd)


class Bell:
    """Wakes a thread that polls ``fd``; ringing after :meth:`close` does nothing."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()  # or a descriptor closed meanwhile, and opened by others, is written to

    def ring(self) -> None:
        """From any thread."""
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def hear(self) -> None:
        """In the thread that was woken."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """When nobody polls any more; may be called twice."""
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
