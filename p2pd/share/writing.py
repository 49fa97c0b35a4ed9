"""Writes behind the reactor's back, on a thread of their own.

A write into the page cache costs as much as receiving and hashing the bytes, and
one that has to wait for the disk would stop everything else. What waits meanwhile is
written together where it is neighbouring.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from p2pd.errors import StorageError
from p2pd.net import turns

LIMIT = 8 * 1024 * 1024
"""Bytes that may wait to be written; with more, who brings them is not read until there is room."""

log = Logger("p2pd.share")

MOST_AT_ONCE = 64
"""Pieces of memory in one call; the system takes 1024."""
GATHER = 0.02
"""Seconds for which less than that is gathered."""
HAND_OVER = 2 * 1024 * 1024
"""Bytes with which the thread begins at once; less of them wait a moment for more. Each
time the thread is woken, and each time it asks for the interpreter, costs as much as writing 100 KiB."""

Done = Callable[[StorageError | None], None]


class Target(Protocol):
    """A file that is written to; compared by identity."""

    def writev(self, offset: int, views: Sequence[memoryview]) -> None:
        """Write ``views`` one behind the other from ``offset`` on, all of it; StorageError."""


@attrs.frozen(eq=False)
class _Write:
    target: Target
    offset: int
    view: memoryview
    done: Done


@attrs.frozen(eq=False)
class _Other:
    work: Callable[[], None]


class Holdable(Protocol):
    """What can be stopped from bringing more."""

    def hold(self, why: str) -> None:
        """Bring nothing more until released."""

    def release(self, why: str) -> None:
        """Undo one :meth:`hold`."""


class Writer:
    """See the module. All methods are for the reactor thread.

    Of two writes to the same offset the later one is done later.
    """

    def __init__(self, from_thread: Callable[..., object], later: Callable[..., object]) -> None:
        """``from_thread(f)`` calls ``f`` on the reactor thread; ``later(s, f)`` after so many seconds."""
        self._from_thread = from_thread
        self._later = later
        self._gathered: list[_Write | _Other] = []
        self._gathered_bytes = 0
        self._queue: queue.SimpleQueue[list[_Write | _Other] | None] = queue.SimpleQueue()
        self._ended: deque[tuple[Sequence[_Write | _Other], StorageError | None]] = deque()
        self._telling = False
        self._thread: threading.Thread | None = None
        self._bytes = 0
        self._count = 0
        self._held: list[Holdable] = []
        self._when_idle: dict[Callable[[], None], None] = {}
        self._drained: list[Deferred[None]] = []
        self._when_told: dict[Callable[[], None], None] = {}

    @property
    def idle(self) -> bool:
        """True where nothing waits."""
        return not self._count

    @property
    def full(self) -> bool:
        """True where :data:`LIMIT` bytes and more wait."""
        return self._bytes >= LIMIT

    def write(self, target: Target, offset: int, view: memoryview, done: Done) -> None:
        """Write ``view`` at ``offset``; ``done`` gets the StorageError, and then ``view`` is free again."""
        self._bytes += len(view)
        self._gathered_bytes += len(view)
        self._put(_Write(target, offset, view, done))

    def after(self, work: Callable[[], None]) -> None:
        """Do ``work`` after all that was given before; at once where that is nothing."""
        if self.idle:
            work()
        else:
            self._put(_Other(work))

    def _put(self, item: _Write | _Other) -> None:
        self._count += 1
        self._gathered.append(item)
        if self._gathered_bytes >= HAND_OVER:
            self._hand_over()
        elif len(self._gathered) == 1:
            self._later(GATHER, self._hand_over)

    def flush(self) -> None:
        """Begin with what was gathered: nothing more is to be expected soon."""
        self._hand_over()

    def _hand_over(self) -> None:
        if not self._gathered:
            return
        items, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if self._thread is None:
            thread = threading.Thread(target=turns.usual, args=(self._run,), name="writer")
            try:
                thread.start()
            except RuntimeError:  # no thread to be had: slowly is better than not at all
                self._ended.extend((batch, _do(batch)) for batch in _batches(items))
                self._later(0, self._deliver)
                return
            self._thread = thread
        self._queue.put(items)

    def when_idle(self, call: Callable[[], None]) -> None:
        """Call once nothing waits any more; only where it is not :attr:`idle`. Twice the same is once."""
        self._when_idle[call] = None

    def when_told(self, call: Callable[[], None]) -> None:
        """For a ``done``: ``call`` follows, once, after all of them that are called now."""
        self._when_told[call] = None

    def hold_while_full(self, who: Holdable) -> None:
        """``who`` is held until there is room; only where it is :attr:`full`."""
        if who not in self._held:
            self._held.append(who)
            who.hold("disk")

    def stop(self) -> Deferred[None]:
        """Fires when everything is written and the thread has ended."""
        drained: Deferred[None] = Deferred()
        self._hand_over()
        if self._thread is None:
            drained.callback(None)
        else:
            self._drained.append(drained)
            self._queue.put(None)
        return drained

    def _run(self) -> None:
        going_on = True
        while going_on:
            parts = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    parts.append(self._queue.get_nowait())
            going_on = None not in parts
            batch: Sequence[_Write | _Other] = ()
            for batch in _batches(item for part in parts if part is not None for item in part):
                self._ended.append((batch, _do(batch)))
                self._tell()
                del batch  # its memory belongs to the reactor thread again
            del parts
        self._from_thread(self._joined)

    def _tell(self) -> None:
        # One wake-up of the reactor for all that ended until it looks.
        if not self._telling:
            self._telling = True
            self._from_thread(self._deliver)

    def _deliver(self) -> None:
        self._telling = False
        while self._ended:
            batch, error = self._ended.popleft()
            for item in batch:
                self._count -= 1
                if isinstance(item, _Write):
                    self._bytes -= len(item.view)
                    item.done(error)
        while self._when_told:
            call, _ = self._when_told.popitem()
            try:
                call()
            except Exception:
                # A fault of ours, but whoever is held waits for what follows.
                log.failure("after writing")
        if not self.full:
            held, self._held = self._held, []
            for each in held:
                each.release("disk")
        if self.idle:
            calls, self._when_idle = self._when_idle, {}
            for call in calls:
                call()

    def _joined(self) -> None:
        self._deliver()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        drained, self._drained = self._drained, []
        for each in drained:
            each.callback(None)


def _batches(items: Iterable[_Write | _Other]) -> Iterator[Sequence[_Write | _Other]]:
    """Neighbouring writes together; other work where it stood."""
    writes: list[_Write] = []
    for item in items:
        if isinstance(item, _Write):
            writes.append(item)
        else:
            yield from _neighbours(writes)
            writes = []
            yield [item]
    yield from _neighbours(writes)


def _neighbours(writes: list[_Write]) -> Iterator[list[_Write]]:
    batch: list[_Write] = []
    ordered = sorted(writes, key=lambda write: (id(write.target), write.offset))
    if any(a.target is b.target and a.offset + len(a.view) > b.offset for a, b in pairwise(ordered)):
        ordered = writes  # of two that overlap, the later one has to win
    for write in ordered:
        if batch:
            last = batch[-1]
            follows = write.target is last.target and write.offset == last.offset + len(last.view)
            if not follows or len(batch) == MOST_AT_ONCE:
                yield batch
                batch = []
        batch.append(write)
    if batch:
        yield batch


def _do(batch: Sequence[_Write | _Other]) -> StorageError | None:
    try:
        first = batch[0]
        if isinstance(first, _Write):
            views = [each.view for each in batch if isinstance(each, _Write)]
            first.target.writev(first.offset, views)
        else:
            first.work()
    except StorageError as problem:
        return problem
    except Exception as problem:
        log.failure("writing")
        return StorageError(f"internal error: {type(problem).__name__}")
    return None
