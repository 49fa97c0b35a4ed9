"""Why a connection did not come about, in words."""

from __future__ import annotations

import os

from twisted.python.failure import Failure


def why(error: BaseException) -> str:
    """A short sentence: what the system raised, where that is known."""
    # Of Twisted's own it is the number of an error, or what the system raised.
    cause = getattr(error, "osError", None)
    if isinstance(cause, int):
        return os.strerror(cause)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    # Twisted puts a Failure there where a connection is lost before it is one.
    inner = next((each.value for each in error.args if isinstance(each, Failure)), None)
    return why(inner) if inner is not None else Failure(error).getErrorMessage()
