"""Small questions to the disk that a share lies on. Both block: call them in a thread."""

from __future__ import annotations

import hashlib
import os

from p2pd.errors import StorageError
from p2pd.share.paths import ShareRoot, storage_error


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
