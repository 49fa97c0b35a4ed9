"""What the scanning thread tells the reactor, in chunks that never hold it up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import attrs

from p2pd.model import FileId
from p2pd.share.cache import Known
from p2pd.share.hashing import StatKey, usual_piece_size
from p2pd.share.listing import name_of

_CHUNK = 250
"""Changes handed over at a time: about a millisecond on the reactor."""

Lookup = Callable[[Sequence[tuple[StatKey, int]]], Sequence[Known | None]]
"""For every (key, usual piece size): what the cache knows."""


@attrs.frozen
class Found:
    """A file is there, new or with another key; ``file_id`` and ``piece_size`` where the cache knows."""

    rel: bytes
    name: str
    key: StatKey
    piece_size: int | None
    file_id: FileId | None


@attrs.frozen
class Gone:
    """A file is not there any more, or (``written``) not at rest."""

    rel: bytes
    written: bool


@attrs.frozen
class State:
    """How things stand: all seen once; no events for some of it; files not at rest; what to tell people."""

    scanned: bool = False
    polling: bool = False
    waiting: bool = False
    problems: Sequence[str] = ()


@attrs.frozen
class Update:
    """Changes in their order, or the state where that is another than before."""

    changes: Sequence[Found | Gone]
    state: State | None


class Teller:
    """Gathers changes and hands them over; used by the scanning thread."""

    def __init__(self, emit: Callable[[Update], None], lookup: Lookup, piece_size: int | None) -> None:
        """``emit`` may hold the thread up; ``piece_size`` is the configured one, in bytes."""
        self._emit = emit
        self._lookup = lookup
        self._piece_size = piece_size
        self._queue: deque[tuple[bytes, StatKey] | Gone] = deque()
        self._told = State()

    def found(self, rel: bytes, key: StatKey) -> None:
        """A file is at rest."""
        self._queue.append((rel, key))

    def gone(self, rel: bytes, written: bool = False) -> None:
        """A file is gone, or is being written."""
        self._queue.append(Gone(rel, written))

    def flush(self) -> None:
        """Hand over full chunks."""
        while len(self._queue) >= _CHUNK:
            self._hand_over()

    def flush_all(self, state: State) -> None:
        """Hand over everything, and then how things stand."""
        while self._queue:
            self._hand_over()
        if state != self._told:
            self._told = state
            self._emit(Update((), state))

    def _hand_over(self) -> None:
        chunk = [self._queue.popleft() for _ in range(min(_CHUNK, len(self._queue)))]
        known = iter(
            self._lookup(
                [
                    (entry[1], usual_piece_size(entry[1].size, self._piece_size))
                    for entry in chunk
                    if isinstance(entry, tuple)
                ]
            )
        )
        changes: list[Found | Gone] = []
        for entry in chunk:
            if isinstance(entry, Gone):
                changes.append(entry)
                continue
            rel, key = entry
            piece_size, file_id = next(known) or (None, None)
            name = name_of(rel)
            if name is not None:
                changes.append(Found(rel, name, key, piece_size, file_id))
        self._emit(Update(changes, None))
