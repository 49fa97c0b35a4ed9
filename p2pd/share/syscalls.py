"""Linux calls that Python has no function for: openat2, renameat2, fstatfs, and a look for writers."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RENAME_NOREPLACE = 1
_RETRIES = 16  # openat2 says EAGAIN when a rename elsewhere raced with it


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _os_error(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), os.fsdecode(path))


def openat2(dirfd: int, path: bytes, flags: int) -> int:
    """Open ``path`` beneath ``dirfd`` without following any link; OSError (ENOSYS: too old a kernel)."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    number = errno.EAGAIN
    for _ in range(_RETRIES):
        fd = int(_LIBC.syscall(_OPENAT2, dirfd, path, ctypes.byref(how), ctypes.sizeof(how)))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise _os_error(number, path)


def rename_noreplace(src_dirfd: int, src: bytes, dst_dirfd: int, dst: bytes) -> None:
    """Rename, but FileExistsError where ``dst`` exists; OSError ENOSYS or EINVAL: not supported here."""
    renameat2 = getattr(_LIBC, "renameat2", None)
    if renameat2 is None:
        raise _os_error(errno.ENOSYS, dst)
    if renameat2(src_dirfd, src, dst_dirfd, dst, _RENAME_NOREPLACE) != 0:
        raise _os_error(ctypes.get_errno(), dst)


_REMOTE = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x65735546: "FUSE",
    0x01021997: "9P",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
}


def remote_file_system(fd: int) -> str | None:
    """The kind of a file system whose changes may be made elsewhere, unseen by inotify; else None."""
    buffer = ctypes.create_string_buffer(512)
    # O_PATH descriptors are allowed here since Linux 3.12.
    if _LIBC.fstatfs(fd, buffer) != 0:
        return None
    kind = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_long))[0] & 0xFFFFFFFF
    return _REMOTE.get(kind)


def has_writer(fd: int) -> bool | None:
    """Whether anybody has the regular file ``fd`` (opened read-only) open for writing; None: unknown.

    The kernel grants a read lease only where nobody writes. It is given back at once;
    an open for writing that falls into this moment waits for it, and the kernel's
    signal about that is made one that is ignored by default.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:  # not the owner of the file, or a file system without leases
        return None
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:  # closing the descriptor drops the lease as well
        return None
    return False
