"""What the scanning thread tells the reactor, in chunks that never hold it up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import attrs

from p2pd.model import FileId
from p2pd.share.cache import Known
from p2pd.share.hashing import StatKey, StatRow, usual_piece_size

_CHUNK = 250
"""Changes handed over at a time: about a millisecond on the reactor."""

_SHOWN = 5

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
        self._queue: deque[tuple[bytes, str, StatRow] | Gone] = deque()
        self._told = State()

    def found(self, rel: bytes, name: str, row: StatRow) -> None:
        """A file is at rest."""
        self._queue.append((rel, name, row))

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
        keys = [StatKey(*entry[2]) for entry in chunk if isinstance(entry, tuple)]
        known = iter(self._lookup([(key, usual_piece_size(key.size, self._piece_size)) for key in keys]))
        later = iter(keys)
        changes: list[Found | Gone] = [
            entry
            if isinstance(entry, Gone)
            else Found(entry[0], entry[1], next(later), *(next(known) or (None, None)))
            for entry in chunk
        ]
        self._emit(Update(changes, None))


def sentences(
    root: str | None, no_events: str | None, skipped: int, unreadable: Mapping[bytes, str]
) -> list[str]:
    """What is wrong with the share, for people; of what cannot be read, the first few."""
    problems = [root] if root else []
    if no_events:
        problems.append(f"Changes in the share are looked for every 30 s only: {no_events}.")
    if skipped:
        problems.append(f"{skipped} names in the share are not UTF-8, or too long, and are not offered.")
    problems.extend(f"Not offered: {reason}." for reason in list(unreadable.values())[:_SHOWN])
    if len(unreadable) > _SHOWN:
        problems.append(f"{len(unreadable) - _SHOWN} more files or folders cannot be read.")
    return problems
