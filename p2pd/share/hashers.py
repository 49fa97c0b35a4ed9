"""Threads that hash the share: files that somebody waits for in turns, the rest in the background."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable

import attrs

from p2pd.errors import ChangedError, P2PError
from p2pd.memory import pages
from p2pd.model import Manifest
from p2pd.net import turns
from p2pd.share.cache import ManifestCache
from p2pd.share.hashing import STEP, Cancelled, HashRun, StatKey
from p2pd.share.paths import ShareRoot

_TURN = 16
"""Steps that a file gets before the next one that somebody waits for has its turn."""
_GATHER = 256
_GATHER_SECONDS = 0.2
"""Background results are handed over (and written to the cache) so many or so often at a time."""


@attrs.define(eq=False)
class HashJob:
    """One file to be hashed at one piece size. Made and owned on the reactor; threads run it."""

    rel: bytes
    key: StatKey
    run: HashRun
    urgent: bool = False
    cancelled: bool = False
    result: Manifest | P2PError | Cancelled | None = None
    kept: bool = False


class HashPool:
    """``workers`` threads for urgent jobs and one for the rest.

    Urgent jobs take turns, so that a huge file holds up none that came after it; a job
    that becomes urgent while it runs in the background goes on from where it was.
    """

    def __init__(
        self,
        root: ShareRoot,
        cache: ManifestCache,
        deliver: Callable[[list[HashJob]], object],
        workers: int = 2,
    ) -> None:
        """``deliver``: called from the threads with jobs that have their result."""
        self._root = root
        self._cache = cache
        self._deliver = deliver
        self._workers = workers
        self._ready = threading.Condition()
        self._urgent: deque[HashJob] = deque()
        self._background: deque[HashJob] = deque()
        self._threads: list[threading.Thread] = []
        self._stopping = False

    def submit(self, job: HashJob) -> None:
        """Queue a job. Its result comes through ``deliver``, except after :meth:`stop`."""
        with self._ready:
            if not self._threads and not self._stopping:
                self._start()
            (self._urgent if job.urgent else self._background).append(job)
            self._ready.notify_all()

    def promote(self, job: HashJob) -> None:
        """Make a background job urgent."""
        with self._ready:
            job.urgent = True
            with contextlib.suppress(ValueError):  # it runs: the thread hands it over after this step
                self._background.remove(job)
                self._urgent.append(job)
            self._ready.notify_all()

    def stop(self, seconds: float) -> None:
        """Call everything off and wait up to ``seconds`` for the threads. Blocking."""
        with self._ready:
            self._stopping = True
            self._urgent.clear()
            self._background.clear()
            self._ready.notify_all()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _start(self) -> None:
        # Daemon threads: a read that hangs (a dead network mount) must not keep the process.
        self._threads = [
            threading.Thread(target=self._serve, name=f"hash-{number}", daemon=True)
            for number in range(self._workers)
        ]
        self._threads.append(threading.Thread(target=self._tidy, name="hash-background", daemon=True))
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        """An urgent worker's life."""
        turns.give_back()  # who started it may have long ones, and is to have its turn between these
        buffer = pages(STEP)
        while True:
            with self._ready:
                while not self._urgent and not self._stopping:
                    self._ready.wait()
                if self._stopping:
                    return
                job = self._urgent.popleft()
            if self._advance(job, buffer, _TURN):
                self._finish([job])
            else:
                with self._ready:
                    self._urgent.append(job)

    def _tidy(self) -> None:
        """The background worker's life."""
        # Not niced: where the machine is busy, a thread that waits for the processor while it holds
        # the interpreter's lock holds up the reactor (0.6 s were seen).
        turns.give_back()
        buffer = pages(STEP)
        ended: list[HashJob] = []
        since = time.monotonic()
        while True:
            with self._ready:
                job = self._background.popleft() if self._background else None
            if ended and (job is None or len(ended) >= _GATHER or time.monotonic() - since > _GATHER_SECONDS):
                self._finish(ended)
                ended = []
            if job is None:
                with self._ready:
                    while not self._background and not self._stopping:
                        self._ready.wait()
                    if self._stopping:
                        return
                continue
            if not ended:
                since = time.monotonic()
            while not self._advance(job, buffer, 1):
                if job.urgent:
                    with self._ready:
                        self._urgent.append(job)
                        self._ready.notify_all()
                    break
            else:
                ended.append(job)

    def _advance(self, job: HashJob, buffer: bytearray | memoryview, steps: int) -> bool:
        """Hash up to ``steps`` steps; True when the job has its result."""
        try:
            fd = self._root.open_file(job.rel)
            try:
                self._check(fd, job)
                for _ in range(steps):
                    if job.cancelled or self._stopping:
                        raise Cancelled
                    if job.run.finished:
                        break
                    job.run.step(fd, buffer)
                self._check(fd, job)
            finally:
                os.close(fd)
        except (P2PError, Cancelled) as error:
            job.result = error
            return True
        if not job.run.finished:
            return False
        job.result = job.run.manifest()
        return True

    @staticmethod
    def _check(fd: int, job: HashJob) -> None:
        if StatKey.of(os.fstat(fd)) != job.key:
            raise ChangedError("the file changed while it was hashed")

    def _finish(self, jobs: list[HashJob]) -> None:
        self._cache.put_many(
            (job.key, job.result, job.kept) for job in jobs if isinstance(job.result, Manifest)
        )
        if not self._stopping:
            self._deliver(jobs)
