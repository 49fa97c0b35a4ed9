"""How blocking work leaves the reactor: a callable that is handed in, so that tests run it inline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class InThread(Protocol):
    """Runs ``work`` in a thread; the awaitable gives its result or raises what it raised."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...
