"""Small questions to the disk that a share lies on. Both block: call them in a thread."""

from __future__ import annotations

import hashlib
import os
import stat

from p2pd.errors import ConflictError, StorageError
from p2pd.share.paths import ShareRoot, storage_error
from p2pd.text import escape


def sha256_of(root: ShareRoot, rel: bytes) -> str:
    """Hex SHA-256 of a file of the share. NotFoundError, StorageError."""
    fd = root.open_file(rel)
    try:
        with os.fdopen(fd, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise storage_error(error, "cannot read the file") from error


def check_room(root: ShareRoot, missing: int) -> None:
    """StorageError where fewer than ``missing`` bytes are free on the share's file system."""
    try:
        room = os.statvfs(root.path)
    except OSError as error:
        raise storage_error(error, "cannot see how much room there is") from error
    free = room.f_bavail * room.f_frsize
    if free < missing:
        raise StorageError(f"{missing} bytes are missing, {free} are free")


def check_target(root: ShareRoot, name: str, replace: bool) -> None:
    """ConflictError where something stands in the way of a new file of that name: a folder, a link, a file.

    Only spares fetching what could not be finished: what counts is the rename at the end.
    """
    path = b""
    parts = os.fsencode(name).split(b"/")
    for number, part in enumerate(parts):
        path = path + b"/" + part if path else part
        try:
            mode = os.stat(path, dir_fd=root.fd, follow_symlinks=False).st_mode
        except OSError:
            return
        shown = escape(os.fsdecode(path))
        if number < len(parts) - 1:
            if not stat.S_ISDIR(mode):
                raise ConflictError(f"{shown} is here, and is no folder", variants=[])
        elif stat.S_ISDIR(mode):
            raise ConflictError(f"{shown} is a folder here", variants=[])
        elif not replace:
            raise ConflictError(f"{shown} is here already: --replace it, or choose --output", variants=[])
