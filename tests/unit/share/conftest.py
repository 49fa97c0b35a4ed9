from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThreadPool

from p2pd.model import Manifest, TransferId
from p2pd.pieces import Bitfield
from p2pd.share.cache import ManifestCache
from p2pd.share.hashing import HashRun
from p2pd.share.index import ShareIndex
from p2pd.share.inotify import Q_OVERFLOW, Event, Inotify
from p2pd.share.job import Job
from p2pd.share.partial import PartialFile, PartialStore
from p2pd.share.paths import ShareRoot


@pytest.fixture(params=[True, False], ids=["openat2", "walk"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShareRoot]:
    """Both ways of opening beneath the root keep the same contract."""
    root = ShareRoot.open(str(tmp_path / "share"), openat2=request.param)
    if request.param and not root._kernel_has_openat2():
        pytest.skip("this kernel has no openat2")
    yield root
    root.close()


F = TypeVar("F", bound=Callable[..., object])


def awaited(test: F) -> F:
    """A test that is a coroutine."""
    return cast(F, pytest_twisted.ensureDeferred(test))


class LossyInotify(Inotify):
    """Loses what it is told to, as a full queue does."""

    lose = False

    def read(self) -> list[Event]:
        events = super().read()
        if self.lose and events:
            self.lose = False
            return [Event(-1, Q_OVERFLOW, b"")]
        return events


class Rig:
    """A share that is really watched, with a clock of its own and the real reactor's threads."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder / "share"
        self.folder.mkdir(exist_ok=True)
        self.clock = Clock()
        self.clock.advance(1000)
        self.root = ShareRoot.open(str(self.folder))
        self.cache = ManifestCache(str(folder / "cache.db"))
        self.inotify: LossyInotify | None = None
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self.told: list[str] = []
        options.setdefault("make_inotify", self._make_inotify)
        self.index = ShareIndex(
            self.root,
            self.cache,
            clock=self.clock,
            in_thread=lambda work: deferToThreadPool(reactor, reactor.getThreadPool(), work),  # type: ignore[attr-defined,arg-type]
            from_thread=lambda call, *args: reactor.callFromThread(self._run, call, *args),  # type: ignore[attr-defined]
            **options,
        )
        self.index.subscribe(self.told.append)

    def _make_inotify(self) -> LossyInotify:
        self.inotify = LossyInotify()
        return self.inotify

    def _run(self, call: Callable[..., object], *args: object) -> None:
        call(*args)
        for waiting in list(self._waiting):
            if waiting[0]():
                self._waiting.remove(waiting)
                waiting[1].callback(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Goes on when the condition holds after something came from a thread."""
        if not condition():
            reached: Deferred[None] = Deferred()
            self._waiting.append((condition, reached))
            await reached

    async def start(self) -> None:
        await self.index.start()
        await self.until(lambda: self.index.scanned)

    async def hashed(self, *names: str) -> None:
        await self.until(lambda: all(name in self.ids for name in names))

    async def mark(self) -> None:
        """Goes on when everything that happened in the share so far has been seen."""
        mark = self.folder / f"zz-mark-{self.clock.seconds()}-{len(self.told)}"
        mark.write_bytes(b"")
        await self.until(lambda: mark.name in self.names)
        mark.unlink()
        await self.until(lambda: mark.name not in self.names)

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.index.entries()]

    @property
    def ids(self) -> dict[str, str]:
        return {entry.name: entry.file_id for entry in self.index.entries() if entry.file_id is not None}

    async def stop(self) -> None:
        await self.index.stop()
        self.cache.close()
        self.root.close()


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    await rig.stop()


DATA = bytes(range(256)) * 10 + b"end"
PIECE = 100
JOB = Job(
    TransferId("0123456789ab"),
    "sub/\u00e9.bin",
    sha256="0" * 64,
    sources=("anna", "b\u00f6b"),
    paused=True,
    created=1_700_000_000,
)


def manifest_of(data: bytes = DATA) -> Manifest:
    fd = os.memfd_create("data")
    try:
        os.write(fd, data)
        run = HashRun(len(data), PIECE)
        while not run.finished:
            run.step(fd, bytearray(1 << 16))
        return run.manifest()
    finally:
        os.close(fd)


MANIFEST = manifest_of()
ALL = Bitfield.full(MANIFEST.count)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[ShareRoot]:
    root = ShareRoot.open(str(tmp_path / "share"))
    yield root
    root.close()


_STORES: dict[str, PartialStore] = {}


@pytest.fixture
def store(share: ShareRoot) -> Iterator[PartialStore]:
    store = _STORES[share.path] = PartialStore(share)
    yield store
    del _STORES[share.path]
    store.close()


@pytest.fixture
def partial(store: PartialStore) -> Iterator[PartialFile]:
    partial = store.begin(JOB, MANIFEST)
    partial.write(0, DATA)
    partial.save(ALL)
    yield partial
    partial.close()


def ours(share: ShareRoot, kind: str) -> Path:
    return Path(share.path, ".p2pd", f"{JOB.transfer}.{kind}")


def load(share: ShareRoot) -> tuple[list[tuple[Job, Manifest | None, Bitfield]], list[str]]:
    """As the daemon finds it when it starts again: the one before is gone, and its lock with it."""
    if share.path in _STORES:
        _STORES[share.path].close()
    store = PartialStore(share)
    try:
        return store.load(), store.problems
    finally:
        store.close()
