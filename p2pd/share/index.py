"""What this peer shares: names, files and manifests, kept up to date while the folder changes."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from p2pd.errors import ChangedError, NotFoundError, StorageError, UsageError
from p2pd.model import FileId, Manifest
from p2pd.share.cache import ManifestCache, Recent
from p2pd.share.catalog import Catalog, Entry
from p2pd.share.hashers import HashJob
from p2pd.share.hashing import StatKey, usual_piece_size
from p2pd.share.hashqueue import HashQueue
from p2pd.share.inotify import Inotify
from p2pd.share.listing import examine, is_young, open_unchanged, stat_file
from p2pd.share.paths import ShareRoot, is_canonical, is_hidden
from p2pd.share.scan import Scanner
from p2pd.share.telling import Found, State, Update
from p2pd.threads import InThread

RESCAN = 30.0
"""Seconds between two looks at everything, where no events tell of changes."""
_TICK = 0.5
_ATTEMPTS = 3
_EQUALS = 8
"""Files of one content that are tried when it is opened: each that changed is taken off, and costs time."""
_FEED = 512
"""Background hashings handed to the thread at a time."""

__all__ = ["RESCAN", "Entry", "ShareIndex"]


class ShareIndex:
    """The files of a share. Everything is called, and calls back, on the reactor thread."""

    _log = Logger()

    def __init__(
        self,
        root: ShareRoot,
        cache: ManifestCache,
        *,
        clock: IReactorTime,
        in_thread: InThread,
        from_thread: Callable[..., object],
        piece_size: int | None = None,
        hash_workers: int = 2,
        make_inotify: Callable[[], Inotify] = Inotify,
    ) -> None:
        """``from_thread``: reactor.callFromThread; ``piece_size`` (bytes): for files without their own."""
        self._root = root
        self._cache = cache
        self._clock = clock
        self._in_thread = in_thread
        self._from_thread = from_thread
        self._piece_size = piece_size
        self._catalog = Catalog(self._changed)
        self._scanner = Scanner(
            root,
            self._emit,
            cache.lookup,
            piece_size=piece_size,
            now=clock.seconds,
            make_inotify=make_inotify,
        )
        self._hashes = HashQueue(root, cache, from_thread, self._hashed, hash_workers)
        self._backlog: OrderedDict[str, None] = OrderedDict()
        self._recent = Recent()
        self._failed: dict[str, str] = {}
        self._adopted: dict[bytes, StatKey] = {}
        self._callbacks: list[Callable[[str], None]] = []
        self._looks: dict[str, list[Deferred[Found | None]]] = {}
        self._state = State()
        self._credit = threading.Semaphore(2)  # updates under way to the reactor
        self._rescan: IDelayedCall | None = None
        self._tick: IDelayedCall | None = None
        self._stopped = False

    # -- life

    async def start(self) -> None:
        """Begin to watch and to scan; returns at once."""
        self._rescan = self._clock.callLater(RESCAN, self._look_again)
        self._scanner.start()

    async def stop(self) -> None:
        """Stop everything; whoever waits for a manifest gets CancelledError. Takes under a second."""
        self._stopped = True
        for call in self._rescan, self._tick:
            if call is not None and call.active():
                call.cancel()
        join_hashers = self._hashes.stop()

        def join() -> None:
            self._scanner.stop(0.4)
            join_hashers()

        await self._in_thread(join)

    # -- what there is

    @property
    def scanned(self) -> bool:
        """True after the first look at everything."""
        return self._state.scanned

    @property
    def count(self) -> int:
        """How many files are offered."""
        return len(self._catalog)

    @property
    def problems(self) -> list[str]:
        """Sentences for a person."""
        failed = [f"Not offered: {sentence}." for sentence in list(self._failed.values())[:5]]
        cache = [self._cache.problem] if self._cache.problem else []
        return [*self._state.problems, *self._catalog.problems, *cache, *failed]

    def entries(self) -> Iterator[Entry]:
        """The files offered, sorted by name; files that come or go meanwhile may or may not show."""
        return self._catalog.entries()

    def subscribe(self, callback: Callable[[str], None]) -> None:
        """Have ``callback(name)`` called when a name gets a (new) file id, changes, or vanishes."""
        self._callbacks.append(callback)

    def unsubscribe(self, callback: Callable[[str], None]) -> None:
        """The reverse of :meth:`subscribe`."""
        self._callbacks.remove(callback)

    async def find(self, name: str) -> Entry | None:
        """The file of that name; None where it is not offered, or not at rest yet. StorageError."""
        if is_hidden(name) or not is_canonical(name):
            return None
        entry = self._catalog.get(name)
        if entry is not None:
            return entry
        found = await self._look(name)
        entry = self._catalog.get(name)
        if found is None or entry is not None or self._stopped or self._scanner.is_waiting(found.rel):
            return entry
        self._put(found)
        self._scanner.check(found.rel)  # it may be gone meanwhile
        return self._catalog.get(name)

    def _look(self, name: str) -> Deferred[Found | None]:
        """One look at the disk for all who ask for a name at once: in a swarm all do."""
        looked: Deferred[Found | None] = Deferred()
        waiting = self._looks.setdefault(name, [])
        waiting.append(looked)
        if len(waiting) == 1:
            ensureDeferred(self._look_for_all(name))
        return looked

    async def _look_for_all(self, name: str) -> None:
        found: Any
        try:
            found = await self._in_thread(lambda: self._on_disk(name))
        except Exception:
            found = Failure()
        for each in self._looks.pop(name):
            each.callback(found)

    async def manifest(self, name: str, piece_size: int = 0) -> Manifest:
        """The manifest of ``name``, hashed ahead of everything else where it is not known.

        ``piece_size`` in bytes; 0: the one that the file came with, else the usual one.
        Raises NotFoundError, StorageError, ChangedError where it keeps changing, UsageError
        for a piece size that does not fit the file.
        """
        for attempt in range(_ATTEMPTS):
            entry = await self.find(name)
            if entry is None:
                if attempt:
                    break
                raise NotFoundError(f"{name} is not shared here")
            wanted = piece_size or self._usual(entry)
            manifest = await self._known(entry, wanted)
            if manifest is not None:
                return manifest
            if not self._current(entry):
                continue
            try:
                manifest = await self._hashes.wait(entry.rel, entry.key, wanted, self._is_kept(entry, wanted))
            except ChangedError:
                continue
            except ValueError:
                raise UsageError(f"{name} cannot have pieces of {wanted} bytes") from None
            self._recent.add(manifest, manifest.file_id)
            return manifest
        raise ChangedError(f"{name} keeps changing")

    def hashing_progress(self, name: str) -> tuple[int, int] | None:
        """Bytes hashed and size, while a hashing of the file goes on or waits; else None."""
        entry = self._catalog.get(name)
        if entry is None:
            return None
        running = self._hashes.progress(entry.rel)
        if running is None and entry.file_id is None and name not in self._failed:
            return 0, entry.key.size
        return running

    def offered(self, file_id: FileId) -> Entry | None:
        """A file with this content, by its manifest at whatever piece size it was asked for so far."""
        pair = self._catalog.holder(file_id)
        return self._catalog.get(pair[0]) if pair else None

    def open(self, file_id: FileId) -> tuple[int, Manifest, StatKey]:
        """A read-only descriptor (the caller closes it), the manifest and the key of a file.

        NotFoundError where it is not offered; ChangedError where it is not any more what was
        offered, in which case it is looked at anew; StorageError.
        """
        changed = False
        for _ in range(_EQUALS):
            pair = self._catalog.holder(file_id)
            entry = self._catalog.get(pair[0]) if pair else None
            if pair is None or entry is None:
                break
            piece_size = pair[1]
            manifest = self._recent.get(file_id)
            if manifest is None:
                manifest = self._cache.get(entry.key, piece_size)
                if manifest is None or manifest.file_id != file_id:
                    self._forget_id(entry)  # the cache lost it: hashed again
                    continue
                self._recent.add(manifest, file_id)
            fd = open_unchanged(self._root, entry.rel, entry.key)
            if fd is not None:
                return fd, manifest, entry.key
            changed = True
            self._distrust(entry)
        if changed:
            raise ChangedError("the file changed")
        raise NotFoundError("no file of this id is shared here")

    def still(self, fd: int, key: StatKey, rel: bytes) -> bool:
        """Whether ``fd`` is unchanged and still what lies under ``rel``: two system calls."""
        try:
            there = os.stat(rel, dir_fd=self._root.fd, follow_symlinks=False)
            return StatKey.of(os.fstat(fd)) == key == StatKey.of(there)
        except OSError:
            return False

    async def adopt(self, name: str, manifest: Manifest) -> None:
        """List a file that was just downloaded, with the manifest that it came with, without hashing.

        StorageError where it is not there.
        """

        def keep() -> Found:
            rel = self._root.resolve(name)
            try:
                result = os.stat(rel, dir_fd=self._root.fd, follow_symlinks=False)
            except OSError as error:
                raise StorageError(f"{name} is gone") from error
            key = StatKey.of(result)
            self._cache.put(key, manifest, kept=True)
            return Found(rel, name, key, manifest.piece_size, manifest.file_id)

        found = await self._in_thread(keep)
        if found.key.size != manifest.size:
            raise ChangedError(f"{name} changed")
        self._recent.add(manifest, manifest.file_id)
        self._catalog.put(found, replace=True)
        self._backlog.pop(name, None)
        self._adopted[found.rel] = found.key
        self._scanner.trust(found.rel, found.key)

    # -- files coming and going

    def _emit(self, update: Update) -> None:
        """In the scanning thread: hand over, but let only a few updates queue up at the reactor."""
        while not self._credit.acquire(timeout=0.05):
            if self._scanner.stopping:
                return
        self._from_thread(self._merge, update)

    def _merge(self, update: Update) -> None:
        try:
            if self._stopped:
                return
            for change in update.changes:
                if isinstance(change, Found):
                    self._put(change)
                elif not (change.written and self._is_adopted(change.rel)):
                    self._hashes.drop(change.rel)
                    self._catalog.remove(change.rel)
                    self._adopted.pop(change.rel, None)
            if update.state is not None:
                first = update.state.scanned and not self._state.scanned
                self._state = update.state
                if first:  # all that is there was looked up just now
                    ensureDeferred(self._prune())
                if update.state.waiting and self._tick is None:
                    self._tick = self._clock.callLater(_TICK, self._settle)
            self._feed()
        finally:
            self._credit.release()

    async def _prune(self) -> None:
        try:
            await self._in_thread(self._cache.prune)
        except Exception:
            self._log.failure("pruning the cache of hashes")

    def _is_adopted(self, rel: bytes) -> bool:
        """Whether a file that was downloaded is unchanged: it is the daemon that has it open still."""
        key = self._adopted.get(rel)
        result = None if key is None else stat_file(self._root, rel)
        return result is not None and StatKey.of(result) == key

    def _put(self, found: Found) -> None:
        before = self._catalog.by_rel(found.rel)
        if before is not None and before.key != found.key:
            self._hashes.drop(found.rel)
        self._catalog.put(found)

    def _changed(self, name: str, quietly: bool) -> None:
        """The catalogue has, or has not any more, a file of this name."""
        self._failed.pop(name, None)
        entry = self._catalog.get(name)
        if entry is not None and entry.file_id is None:
            self._backlog[name] = None
        else:
            self._backlog.pop(name, None)
        if quietly:
            return
        for callback in list(self._callbacks):
            try:
                callback(name)
            except Exception:
                self._log.failure("a listener to the share failed")

    def _settle(self) -> None:
        self._tick = None
        self._scanner.settle()
        if self._state.waiting:
            self._tick = self._clock.callLater(_TICK, self._settle)

    def _look_again(self) -> None:
        self._rescan = self._clock.callLater(RESCAN, self._look_again)
        if self._state.polling:
            self._scanner.rescan()
        else:
            self._scanner.settle()

    def _on_disk(self, name: str) -> Found | None:
        """In a thread: the file of that name, if it is at rest."""
        rel = self._root.resolve(name)
        if self._scanner.is_waiting(rel):
            return None
        try:
            key, writer = examine(self._root, rel)
        except NotFoundError:
            return None
        if writer or (writer is None and is_young(key.row, time.time())):
            return None
        known = self._cache.lookup([(key, usual_piece_size(key.size, self._piece_size))])[0]
        return Found(rel, name, key, *(known or (None, None)))

    def _distrust(self, entry: Entry) -> None:
        self._hashes.drop(entry.rel)
        self._catalog.remove(entry.rel)
        self._scanner.check(entry.rel)

    def _forget_id(self, entry: Entry) -> None:
        self._catalog.remove(entry.rel)
        self._catalog.put(Found(entry.rel, entry.name, entry.key, entry.piece_size, None))
        self._feed()

    # -- manifests

    def _usual(self, entry: Entry) -> int:
        return entry.piece_size or usual_piece_size(entry.key.size, self._piece_size)

    def _current(self, entry: Entry) -> bool:
        """Whether the file is offered as it was; its id may be known meanwhile."""
        there = self._catalog.get(entry.name)
        return there is not None and (there.rel, there.key) == (entry.rel, entry.key)

    @staticmethod
    def _is_kept(entry: Entry, piece_size: int) -> bool:
        """Whether hashing at this size renews the manifest that the file once came with."""
        return entry.file_id is None and entry.piece_size == piece_size

    async def _known(self, entry: Entry, piece_size: int) -> Manifest | None:
        for file_id in self._catalog.ids(entry.name):
            manifest = self._recent.get(file_id)
            if manifest is not None and manifest.piece_size == piece_size:
                return manifest
        manifest = await self._in_thread(lambda: self._cache.get(entry.key, piece_size))
        if manifest is None or not self._current(entry):
            return None
        self._recent.add(manifest, manifest.file_id)
        self._register(entry, manifest)
        return manifest

    def _register(self, entry: Entry, manifest: Manifest) -> None:
        usual = manifest.piece_size == self._usual(entry)
        self._catalog.add_id(entry, manifest.file_id, manifest.piece_size, usual)

    def _hashed(self, job: HashJob) -> None:
        entry = self._catalog.by_rel(job.rel)
        if isinstance(job.result, Manifest):
            if entry is not None and entry.key == job.key:
                self._register(entry, job.result)
        else:
            if entry is not None and isinstance(job.result, StorageError):
                self._failed[entry.name] = str(job.result)
            self._scanner.check(job.rel)
        self._feed()

    def _feed(self) -> None:
        """Hand more of the backlog to the background thread."""
        while self._state.scanned and self._backlog and len(self._hashes) < _FEED and not self._stopped:
            name, _ = self._backlog.popitem(last=False)
            entry = self._catalog.get(name)
            if entry is not None and entry.file_id is None:
                size = self._usual(entry)
                self._hashes.background(entry.rel, entry.key, size, self._is_kept(entry, size))
