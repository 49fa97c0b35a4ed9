"""Which files are being hashed and who waits for them: the reactor's side of the hash threads."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import CancelledError, Deferred

from p2pd.errors import ChangedError, P2PError
from p2pd.model import Manifest
from p2pd.share.cache import ManifestCache
from p2pd.share.hashers import HashJob, HashPool
from p2pd.share.hashing import HashRun, StatKey
from p2pd.share.paths import ShareRoot


@attrs.define(eq=False)
class _Hashing:
    job: HashJob
    needed: bool  # whether or not anybody waits for it
    waiters: list[Deferred[Manifest]] = attrs.Factory(list)


class HashQueue:
    """One hashing per file and piece size, shared by all who ask. All on the reactor thread."""

    def __init__(
        self,
        root: ShareRoot,
        cache: ManifestCache,
        from_thread: Callable[..., object],
        ended: Callable[[HashJob], None],
        workers: int,
    ) -> None:
        """``ended``: told of every job that ran to its end, before those who wait for it are."""
        self._pool = HashPool(root, cache, lambda jobs: from_thread(self._deliver, jobs), workers)
        self._ended = ended
        self._running: dict[bytes, dict[int, _Hashing]] = {}
        self._count = 0
        self._stopped = False

    def __len__(self) -> int:
        """How many files are being hashed or wait for it."""
        return self._count

    def background(self, rel: bytes, key: StatKey, piece_size: int, kept: bool) -> None:
        """Hash a file when nobody waits for another."""
        self._hashing(rel, key, piece_size, kept, urgent=False).needed = True

    def wait(self, rel: bytes, key: StatKey, piece_size: int, kept: bool) -> Deferred[Manifest]:
        """The manifest, as soon as it can be had.

        Fails with ChangedError, NotFoundError or StorageError; ValueError is raised where no
        such manifest can be. To cancel it leaves the hashing to the others who wait.
        """
        hashing = self._hashing(rel, key, piece_size, kept, urgent=True)

        def cancel(waiter: Deferred[Manifest]) -> None:
            hashing.waiters.remove(waiter)
            if not hashing.waiters and not hashing.needed:
                self._call_off(hashing)

        waiter: Deferred[Manifest] = Deferred(cancel)
        hashing.waiters.append(waiter)
        return waiter

    def progress(self, rel: bytes) -> tuple[int, int] | None:
        """Bytes done and size, of the hashing that is furthest; None where there is none."""
        runs = [hashing.job.run for hashing in self._running.get(rel, {}).values()]
        return max(((run.done, run.size) for run in runs), default=None)

    def drop(self, rel: bytes) -> None:
        """The file changed or is gone: call its hashings off; those who wait get ChangedError."""
        for hashing in list(self._running.get(rel, {}).values()):
            self._call_off(hashing)
            _fail(hashing, ChangedError("the file changed while it was hashed"))

    def stop(self) -> Callable[[], None]:
        """Call everything off; returns the blocking rest of it, for a thread."""
        self._stopped = True
        for hashing in [h for of_file in self._running.values() for h in of_file.values()]:
            self._call_off(hashing)
            waiters, hashing.waiters = hashing.waiters, []
            for waiter in waiters:
                waiter.errback(CancelledError())
        return lambda: self._pool.stop(0.5)

    def _hashing(self, rel: bytes, key: StatKey, piece_size: int, kept: bool, urgent: bool) -> _Hashing:
        if self._stopped:
            raise CancelledError
        hashing = self._running.get(rel, {}).get(piece_size)
        if hashing is not None and hashing.job.key != key:
            self._call_off(hashing)
            _fail(hashing, ChangedError("the file changed while it was hashed"))
            hashing = None
        if hashing is None:
            job = HashJob(rel, key, HashRun(key.size, piece_size), urgent=urgent, kept=kept)
            hashing = self._running.setdefault(rel, {})[piece_size] = _Hashing(job, needed=False)
            self._count += 1
            self._pool.submit(job)
        elif urgent and not hashing.job.urgent:
            self._pool.promote(hashing.job)
        return hashing

    def _call_off(self, hashing: _Hashing) -> None:
        hashing.job.cancelled = True
        self._remove(hashing)

    def _remove(self, hashing: _Hashing) -> None:
        of_file = self._running.get(hashing.job.rel, {})
        if of_file.get(hashing.job.run.piece_size) is hashing:
            del of_file[hashing.job.run.piece_size]
            self._count -= 1
            if not of_file:
                del self._running[hashing.job.rel]

    def _deliver(self, jobs: list[HashJob]) -> None:
        for job in jobs:
            hashing = self._running.get(job.rel, {}).get(job.run.piece_size)
            if self._stopped or hashing is None or hashing.job is not job:
                continue
            self._remove(hashing)
            self._ended(job)
            if isinstance(job.result, Manifest):
                waiters, hashing.waiters = hashing.waiters, []
                for waiter in waiters:
                    waiter.callback(job.result)
            else:
                error = job.result if isinstance(job.result, P2PError) else None
                _fail(hashing, error or ChangedError("the file changed while it was hashed"))


def _fail(hashing: _Hashing, error: P2PError) -> None:
    waiters, hashing.waiters = hashing.waiters, []
    for waiter in waiters:
        waiter.errback(error)
