"""One tree of errors; each has a stable code, an exit status and a sentence for a person.

Standard library only: the client imports it too.
"""

from __future__ import annotations

from typing import Any, ClassVar


class P2PError(Exception):
    """Something failed; ``str(error)`` is a sentence for a person.

    ``details`` are further JSON-able keys of the ``failed`` event
    (``variants`` of a conflict).
    """

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class UsageError(P2PError):
    """The command line is wrong, or a name is not canonical."""

    code = "usage"
    exit_status = 2


class NoDaemonError(P2PError):
    """No daemon answers on the control socket."""

    code = "no-daemon"
    exit_status = 3


class NotFoundError(P2PError):
    """Nobody has the file, or there is no such transfer."""

    code = "not-found"
    exit_status = 4


class NoSourcesError(P2PError):
    """All sources were lost; what came is kept."""

    code = "no-sources"
    exit_status = 5


class VerifyError(P2PError):
    """The content does not match the digest it should have."""

    code = "verify-failed"
    exit_status = 6


class ConflictError(P2PError):
    """One name stands for different contents; ``details["variants"]`` lists them."""

    code = "conflict"
    exit_status = 7


class StorageError(P2PError):
    """Disk full, permission denied, I/O error: of this machine's storage."""

    code = "storage"
    exit_status = 8


class RefusedError(P2PError):
    """The other side refused: full, not allowed, name taken."""

    code = "refused"
    exit_status = 9


class UnreachableError(P2PError):
    """Another peer cannot be reached, or does not answer."""


class ProtocolError(P2PError):
    """The other side broke the wire protocol; it loses its connection."""

    code = "protocol"


class ChangedError(P2PError):
    """A shared file is not any more what was offered of it."""

    code = "changed"


BY_CODE: dict[str, type[P2PError]] = {
    cls.code: cls
    for cls in (
        P2PError,
        UsageError,
        NoDaemonError,
        NotFoundError,
        NoSourcesError,
        VerifyError,
        ConflictError,
        StorageError,
        RefusedError,
    )
}
"""The codes that ``p2pctl`` can end with (``docs/cli.md``)."""


def exit_status_of(code: str) -> int:
    """The exit status for the code of a ``failed`` event; an unknown code is a plain failure."""
    return BY_CODE.get(code, P2PError).exit_status
