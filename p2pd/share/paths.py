"""Names inside a share, and the only ways from a name to a file: beneath the root, never through a link."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import unicodedata

from p2pd.errors import ConflictError, NotFoundError, P2PError, RefusedError, StorageError, UsageError
from p2pd.share import syscalls

MAX_COMPONENT = 255
"""Bytes of UTF-8 in one component, as Linux file systems have it."""
MAX_NAME = 4096 - 256
"""Bytes of UTF-8 in a whole name: PATH_MAX, less room for the path of the share itself."""

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
# What an open says of things that are no file reachable without links.
_NO_FILE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.EXDEV,
        errno.ENXIO,
        errno.ENODEV,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.ESTALE,
    }
)
_SENTENCES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EIO: "the disk reports an input/output error",
    errno.EMFILE: "too many open files in this process",
    errno.ENFILE: "too many open files on this machine",
    errno.EXDEV: "it is on another file system",
    errno.EFBIG: "the file system does not take files of this size",
    errno.ENAMETOOLONG: "the name is too long for the file system",
}


def storage_error(error: OSError, what: str) -> StorageError:
    """``error`` as a StorageError whose sentence begins with ``what`` ("cannot write to x")."""
    number = error.errno or 0
    reason = _SENTENCES.get(number) or (os.strerror(number) if number else str(error))
    return StorageError(f"{what}: {reason}")


def is_passing(error: BaseException) -> bool:
    """True for an error that says nothing of the file: no descriptor was left to look at it with."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)


def canonical_name(text: str) -> str:
    """``text`` in NFC, or UsageError where it is not a name inside a share."""
    name = unicodedata.normalize("NFC", text)
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise UsageError("the name is not valid Unicode") from None
    if not name:
        raise UsageError("the name is empty")
    if "\0" in name:
        raise UsageError("the name has a NUL in it")
    if len(raw) > MAX_NAME:
        raise UsageError(f"the name is longer than {MAX_NAME} bytes")
    for component in raw.split(b"/"):
        if component in (b"", b".", b".."):
            raise UsageError(
                "the name is not canonical: no '.', '..', empty component, leading or trailing '/'"
            )
        if len(component) > MAX_COMPONENT:
            raise UsageError(f"a component of the name is longer than {MAX_COMPONENT} bytes")
    return name


def is_canonical(text: str) -> bool:
    """True where ``text`` is a name inside a share exactly as it goes over the wire, NFC too."""
    try:
        return canonical_name(text) == text
    except UsageError:
        return False


def is_hidden(name: str) -> bool:
    """True where any component begins with a dot: such files are never listed and never served."""
    return name.startswith(".") or "/." in name


def _components(rel: bytes) -> list[bytes]:
    """The components of ``rel``; NotFoundError for what no scan gives and no client may ask."""
    parts = rel.split(b"/")
    if any(part in (b"", b".", b"..") for part in parts) or b"\0" in rel:
        raise NotFoundError("no such file in the share")
    return parts


class ShareRoot:
    """The folder that is shared, held open: what is later swapped in under its path is not entered."""

    def __init__(self, path: str, fd: int, openat2: bool | None = None) -> None:
        """``openat2``: None finds out whether the kernel has it; the other two are for tests."""
        self.path = path
        self.fd = fd
        self.openat2 = self._kernel_has_openat2() if openat2 is None else openat2
        self._own: bytes | None = None

    @classmethod
    def open(cls, path: str, create: bool = True, *, openat2: bool | None = None) -> ShareRoot:
        """Open the folder at ``path`` (made where missing, if ``create``); StorageError where it cannot."""
        path = os.path.abspath(path)
        try:
            if create:
                os.makedirs(path, exist_ok=True)
            return cls(path, os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), openat2)
        except OSError as error:
            raise storage_error(error, f"cannot open the share {path}") from error

    def close(self) -> None:
        """Give the descriptor back; may be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def hide(self, folder: str) -> None:
        """Keep ``folder``, which holds the daemon's own secrets, out of the share where it lies in it.

        RefusedError where it is the share itself.
        """
        own, top = os.path.realpath(folder), os.path.realpath(self.path)
        if own == top:
            raise RefusedError(f"the state folder {own} may not be the share; give another one by --state")
        if os.path.commonpath([own, top]) == top:
            self._own = os.fsencode(os.path.relpath(own, top))

    def _is_own(self, rel: bytes) -> bool:
        return self._own is not None and (rel + b"/").startswith(self._own + b"/")

    def path_of(self, name: str) -> str:
        """The absolute path of ``name``, for people and for other programs only."""
        return f"{self.path}/{name}"

    def problem(self) -> str | None:
        """A sentence where the path does not lead to this folder any more (removed, moved, unmounted)."""
        try:
            held, there = os.fstat(self.fd), os.stat(self.path)
        except OSError:
            return f"The share folder {self.path} was removed or moved away."
        if (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino):
            return f"The share folder {self.path} was replaced by another one; restart to share that one."
        return None

    def open_file(self, rel: bytes) -> int:
        """A read-only descriptor of the regular file ``rel`` (bytes as on disk).

        NotFoundError for anything else under that name, or behind a link; StorageError
        where the file is there and cannot be opened.
        """
        fd = self._open(rel, _FILE_FLAGS)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotFoundError("no such file in the share")
        return fd

    def open_folder(self, rel: bytes) -> int:
        """A descriptor of the folder ``rel`` (b"": the root) for listing; errors as in open_file."""
        if rel:
            return self._open(rel, _FOLDER_FLAGS)
        try:
            return os.open(".", _FOLDER_FLAGS, dir_fd=self.fd)
        except OSError as error:
            raise self._open_error(error, rel) from error

    def resolve(self, name: str) -> bytes:
        """``name`` as bytes on disk: there it may be in another normal form of Unicode. Blocking."""
        if name.isascii():
            return name.encode()
        found: list[bytes] = []
        for component in name.split("/"):
            folder = b"/".join(found)
            try:
                fd = self.open_folder(folder)
            except P2PError:  # then nothing under it is there in any form
                return name.encode()
            try:
                found.append(_on_disk(fd, component))
            finally:
                os.close(fd)
        return b"/".join(found)

    def make_folders(self, rel_folder: bytes) -> int:
        """A descriptor of the folder, made durably, component by component, where it is missing.

        ConflictError where something that is no folder, a link too, is in the way.
        """
        if self._is_own(rel_folder):
            raise ConflictError(f"{os.fsdecode(rel_folder)} is the daemon's own folder")
        fd = self.open_folder(b"")
        for component in _components(rel_folder) if rel_folder else []:
            try:
                try:
                    os.mkdir(component, dir_fd=fd)
                    os.fsync(fd)
                except FileExistsError:
                    pass
                inner = os.open(component, _FOLDER_FLAGS, dir_fd=fd)
            except OSError as error:
                shown = os.fsdecode(rel_folder)
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise ConflictError(f"something that is no folder is in the way of {shown}") from error
                raise storage_error(error, f"cannot make the folder {shown}") from error
            finally:
                os.close(fd)
            fd = inner
        return fd

    def rename_into(self, src_dirfd: int, src_name: bytes, name: str, replace: bool) -> bytes:
        """Give the file ``src_name`` in ``src_dirfd`` its ``name``, durably; returns its bytes on disk.

        Missing folders are made. ConflictError where something has the name: with
        ``replace`` only where that is a folder; a link is replaced itself, never followed.
        """
        rel = self.resolve(name)
        folder, _, leaf = rel.rpartition(b"/")
        fd = self.make_folders(folder)
        try:
            if replace:
                os.rename(src_name, leaf, src_dir_fd=src_dirfd, dst_dir_fd=fd)
            else:
                _rename_noreplace(src_dirfd, src_name, fd, leaf)
            os.fsync(fd)
            os.fsync(src_dirfd)
        except FileExistsError as error:
            raise ConflictError(f"{name} is here already") from error
        except IsADirectoryError as error:
            raise ConflictError(f"{name} is a folder here") from error
        except OSError as error:
            raise storage_error(error, f"cannot give {name} its name") from error
        finally:
            os.close(fd)
        return rel

    def _kernel_has_openat2(self) -> bool:
        try:
            os.close(syscalls.openat2(self.fd, b".", os.O_PATH | os.O_DIRECTORY))
        except OSError:  # ENOSYS: an old kernel; EPERM: a sandbox that does not know the call
            return False
        return True

    def _open(self, rel: bytes, flags: int) -> int:
        parts = _components(rel)
        if self._is_own(rel):
            raise NotFoundError("no such file in the share")
        try:
            return syscalls.openat2(self.fd, rel, flags) if self.openat2 else self._walk(parts, flags)
        except OSError as error:
            raise self._open_error(error, rel) from error

    def _walk(self, parts: list[bytes], flags: int) -> int:
        """What openat2 does, for kernels without it."""
        fd = self.fd
        for component in parts[:-1]:
            try:
                inner = os.open(component, _FOLDER_FLAGS, dir_fd=fd)
            finally:
                if fd != self.fd:
                    os.close(fd)
            fd = inner
        try:
            return os.open(parts[-1], flags, dir_fd=fd)
        finally:
            if fd != self.fd:
                os.close(fd)

    @staticmethod
    def _open_error(error: OSError, rel: bytes) -> P2PError:
        if error.errno in _NO_FILE:
            return NotFoundError("no such file in the share")
        return storage_error(error, f"cannot open {os.fsdecode(rel) or 'the share'}")


def _on_disk(fd: int, component: str) -> bytes:
    """The bytes of the entry of folder ``fd`` whose NFC form is ``component``; else its UTF-8."""
    raw = component.encode()
    if component.isascii():
        return raw
    with contextlib.suppress(OSError):
        os.stat(raw, dir_fd=fd, follow_symlinks=False)
        return raw
    with contextlib.suppress(OSError), os.scandir(fd) as entries:
        forms = [entry.name for entry in entries if unicodedata.normalize("NFC", entry.name) == component]
        if forms:
            return min(os.fsencode(form) for form in forms)
    return raw


def _rename_noreplace(src_dirfd: int, src: bytes, dst_dirfd: int, dst: bytes) -> None:
    try:
        syscalls.rename_noreplace(src_dirfd, src, dst_dirfd, dst)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
            raise
    else:
        return
    # A file system without the flag (NFS): a link never replaces anything either.
    os.link(src, dst, src_dir_fd=src_dirfd, dst_dir_fd=dst_dirfd, follow_symlinks=False)
    os.unlink(src, dir_fd=src_dirfd)
