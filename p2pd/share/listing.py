"""One folder of the share as it lies on disk, and what the scanning thread tells of it."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Callable
from operator import itemgetter

import attrs

from p2pd.errors import NotFoundError
from p2pd.share import syscalls
from p2pd.share.hashing import StatKey, StatRow, stat_row
from p2pd.share.paths import ShareRoot, is_canonical, storage_error

QUIET = 2.0
"""Seconds without change after which a file is at rest where no event says so."""


@attrs.define
class Folder:
    """What is known of a folder: files told of by leaf, sub-folders, its watch."""

    files: dict[bytes, StatRow] = attrs.Factory(dict)
    folders: set[bytes] = attrs.Factory(set)
    wd: int | None = None


@attrs.define
class Waiting:
    """A file that is not at rest: its key when last looked at, since when (s), whether events told so."""

    key: StatKey
    since: float
    evented: bool


Listed = tuple[str, bytes, bytes, StatRow]
"""A regular file: its name, its path on disk, the last component of that, its stat."""


@attrs.define
class Listing:
    """The entries of one folder: files sorted by name, sub-folders, how many have no usable name."""

    files: list[Listed] = attrs.Factory(list)
    folders: set[bytes] = attrs.Factory(set)
    skipped: int = 0
    error: str | None = None


def join(folder: bytes, leaf: bytes) -> bytes:
    """``leaf`` in ``folder``, where b"" is the root."""
    return folder + b"/" + leaf if folder else leaf


def name_of(rel: bytes) -> str | None:
    """The name of a path on disk, in NFC; None where it has none that can be asked for."""
    try:
        text = rel.decode()
    except UnicodeDecodeError:
        return None
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    elif len(rel) <= 255:  # what the file system gives is canonical but for the lengths
        return text
    return text if is_canonical(text) else None


def list_folder(root: ShareRoot, rel: bytes, watch: Callable[[int], None]) -> Listing:
    """List ``rel``; ``watch`` gets its descriptor before, so that nothing falls in between. Blocking.

    NotFoundError where there is no such folder reachable without links, StorageError where it
    cannot be opened; a failure in the middle is noted in the listing.
    """
    found = Listing()
    fd = root.open_folder(rel)
    try:
        watch(fd)
        with os.scandir(fd) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    _add(found, rel, entry)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # listing takes a descriptor more
            raise storage_error(error, f"cannot list {os.fsdecode(rel) or 'the share'}") from error
        found.error = f"cannot list {os.fsdecode(rel) or 'the share'}: {error.strerror}"
    finally:
        os.close(fd)
    found.files.sort(key=itemgetter(0))
    return found


def _add(found: Listing, rel: bytes, entry: os.DirEntry[str]) -> None:
    try:
        folder = entry.is_dir(follow_symlinks=False)
        if not folder and not entry.is_file(follow_symlinks=False):
            return
        text = entry.name
        leaf = text.encode() if text.isascii() else os.fsencode(text)
        path = rel + b"/" + leaf if rel else leaf
        name = name_of(path)
        if name is None:
            found.skipped += 1
        elif folder:
            found.folders.add(leaf)
        else:
            found.files.append((name, path, leaf, stat_row(entry.stat(follow_symlinks=False))))
    except OSError:  # gone meanwhile
        return


def is_young(row: StatRow, now: float) -> bool:
    """Whether a file changed so lately (``now``: unix seconds) that it may be in the making.

    By the ctime, because the clock of this machine alone sets it.
    """
    return 0 <= now - row[4] / 1e9 < QUIET


def examine(root: ShareRoot, rel: bytes) -> tuple[StatKey, bool | None]:
    """The key of a file and whether somebody writes it (None: unknown); NotFoundError, StorageError."""
    fd = root.open_file(rel)
    try:
        return StatKey.of(os.fstat(fd)), syscalls.has_writer(fd)
    finally:
        os.close(fd)


def stat_file(root: ShareRoot, rel: bytes) -> os.stat_result | None:
    """The stat of a regular file that is not opened for it; None for anything else."""
    try:
        result = os.stat(rel, dir_fd=root.fd, follow_symlinks=False)
    except OSError:
        return None
    return result if stat.S_ISREG(result.st_mode) else None


def open_unchanged(root: ShareRoot, rel: bytes, key: StatKey) -> int | None:
    """A descriptor of the file; None where it is gone or not what it was. StorageError."""
    try:
        fd = root.open_file(rel)
    except NotFoundError:
        return None
    if StatKey.of(os.fstat(fd)) == key:
        return fd
    os.close(fd)
    return None
