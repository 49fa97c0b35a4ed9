"""Writes behind the reactor's back: one after the other on a thread of their own.

A write into the page cache costs as much as receiving the bytes, and one that
has to wait for the disk would stop everything else.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from p2pd.errors import StorageError

LIMIT = 8 * 1024 * 1024
"""Bytes that may wait to be written; with more, who brings them is not read until there is room."""

log = Logger("p2pd.share")

Done = Callable[[StorageError | None], None]
_Item = tuple[Callable[[], None], int, Done]


class Holdable(Protocol):
    """What can be stopped from bringing more."""

    def hold(self, why: str) -> None:
        """Bring nothing more until released."""

    def release(self, why: str) -> None:
        """Undo one :meth:`hold`."""


class Writer:
    """Runs blocking writes in order. All methods are for the reactor thread."""

    def __init__(self, from_thread: Callable[..., object]) -> None:
        """``from_thread`` calls a function on the reactor thread, soon."""
        self._from_thread = from_thread
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._ended: deque[tuple[_Item, StorageError | None]] = deque()
        self._telling = False
        self._thread: threading.Thread | None = None
        self._bytes = 0
        self._count = 0
        self._held: list[Holdable] = []
        self._when_idle: dict[Callable[[], None], None] = {}
        self._drained: list[Deferred[None]] = []

    @property
    def idle(self) -> bool:
        """True where nothing waits."""
        return not self._count

    @property
    def full(self) -> bool:
        """True where :data:`LIMIT` bytes and more wait."""
        return self._bytes >= LIMIT

    def write(self, work: Callable[[], None], size: int, done: Done) -> None:
        """Do ``work``, which writes ``size`` bytes, after all before it; ``done`` gets its StorageError."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="writer")
            self._thread.start()
        self._bytes += size
        self._count += 1
        self._queue.put((work, size, done))

    def after(self, work: Callable[[], None]) -> None:
        """Do ``work`` after all that was given before; at once where that is nothing."""
        if self.idle:
            work()
        else:
            self.write(work, 0, lambda error: None)

    def when_idle(self, call: Callable[[], None]) -> None:
        """Call once nothing waits any more; only where it is not :attr:`idle`. Twice the same is once."""
        self._when_idle[call] = None

    def hold_while_full(self, who: Holdable) -> None:
        """``who`` is held until there is room; only where it is :attr:`full`."""
        if who not in self._held:
            self._held.append(who)
            who.hold("disk")

    def stop(self) -> Deferred[None]:
        """Fires when everything is written and the thread has ended."""
        drained: Deferred[None] = Deferred()
        if self._thread is None:
            drained.callback(None)
        else:
            self._drained.append(drained)
            self._queue.put(None)
        return drained

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            error = None
            try:
                item[0]()
            except StorageError as problem:
                error = problem
            except Exception as problem:
                log.failure("writing")
                error = StorageError(f"internal error: {type(problem).__name__}")
            self._ended.append((item, error))
            del item  # its buffer belongs to the reactor thread again
            self._tell()
        self._from_thread(self._joined)

    def _tell(self) -> None:
        # One wake-up of the reactor for all that ended until it looks.
        if not self._telling:
            self._telling = True
            self._from_thread(self._deliver)

    def _deliver(self) -> None:
        self._telling = False
        while self._ended:
            (_, size, done), error = self._ended.popleft()
            self._bytes -= size
            self._count -= 1
            done(error)
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
