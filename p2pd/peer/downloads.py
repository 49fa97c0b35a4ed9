"""All transfers of a peer: those coming in, those going out, and those that ended within the hour."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from p2pd.errors import NotFoundError, P2PError, RefusedError, StorageError
from p2pd.model import FileId, Manifest, TransferId
from p2pd.peer.download import Download
from p2pd.peer.household import Household
from p2pd.peer.upload import Upload
from p2pd.share.partial import Job
from p2pd.share.paths import canonical_name, is_hidden
from p2pd.status import SourceStatus, TransferStatus
from p2pd.text import escape

KEEP_ENDED = 3600.0
"""Seconds for which ended transfers stay listed."""
MAX_ENDED = 10_000
"""Of each direction; each takes about half a KiB."""

Emit = Callable[[dict[str, Any]], None]

log = Logger("p2pd.peer")


class Conversations(Protocol):
    """Where the uploads are found."""

    def uploads(self) -> Iterator[tuple[str, Upload]]:
        """Those going on, with the other's name."""


def new_transfer_id() -> TransferId:
    """12 random hex digits."""
    return TransferId(secrets.token_hex(6))


class Downloads:
    """See the module."""

    def __init__(self, house: Household) -> None:
        self._house = house
        self._live: dict[TransferId, Download] = {}
        self._ended: deque[tuple[float, TransferStatus]] = deque(maxlen=MAX_ENDED)
        self._uploaded: deque[tuple[float, TransferStatus]] = deque(maxlen=MAX_ENDED)
        self._loaded: Deferred[None] = Deferred()

    async def load(self) -> list[str]:
        """Go on with what an earlier run left; gives sentences about what was damaged."""
        try:
            loaded = await self._house.in_thread(self._house.store.load)
        except StorageError as error:
            self._loaded.callback(None)
            return [f"{error}."]
        begun = []
        for job, manifest, held in loaded:
            known = (manifest, held) if manifest is not None else None
            download = Download(self._house, job, resumed=True, held=known)
            self._live[download.id] = download
            begun.append(download)
        # Known before anything is asked for: a req for one of them joins it.
        self._loaded.callback(None)
        for name, manifest in self._house.store.renamed:
            await self._keep_manifest(name, manifest)
        for download in begun:
            try:
                await download.start()
            except StorageError as error:
                download.storage_failed(error)
            except P2PError as error:
                download.fail(error)
            except Exception:
                # One that cannot be started must not take the others, or the daemon, with it.
                log.failure("transfer of {file}", file=escape(download.job.name))
                self._live.pop(download.id, None)
        return list(self._house.store.problems)

    async def _keep_manifest(self, name: str, manifest: Manifest) -> None:
        """A kill came between the file's name and its manifest: if it is still that file, it keeps it."""
        index = self._house.index
        try:
            if (await index.manifest(name, manifest.piece_size)).file_id == manifest.file_id:
                await index.adopt(name, manifest)
        except P2PError as error:
            log.info("{file}: {why}", file=escape(name), why=escape(error.message))

    async def request(self, args: Any) -> Download:
        """Begin what `req` asks for, or join a transfer that does the same.

        UsageError, NotFoundError (hidden), RefusedError (a different request
        is under way for that name), StorageError.
        """
        name = canonical_name(args.file)
        output = canonical_name(args.output) if args.output else name
        if is_hidden(name) or is_hidden(output):
            raise NotFoundError(f"{escape(name)}: names that begin with a dot are never shared")
        job = Job(
            transfer=new_transfer_id(), name=name, output=output,
            file_id=FileId(args.id) if args.id else None, sha256=args.sha256, replace=args.replace,
            sources=tuple(args.from_), paused=False,
            size=None, piece_size=None, created=int(time.time()),
        )  # fmt: skip
        if not self._loaded.called:
            waited: Deferred[None] = Deferred()
            self._loaded.chainDeferred(waited)
            await waited
        for other in self._live.values():
            if other.job.target == output:
                joined = _join(other, job)
                if joined.job.paused:
                    await joined.set_paused(False)
                if args.no_wait:
                    await joined.promise()
                return joined
        self._house.asks_anew()
        download = Download(self._house, job)
        self._live[download.id] = download
        begun: Deferred[None] = Deferred()
        # Who asked may go away meanwhile: that ends the wait, and not what is waited for.
        ensureDeferred(_start(download, durable=args.no_wait)).chainDeferred(begun)
        await begun
        return download

    def download_ended(self, transfer: TransferId, status: TransferStatus) -> None:
        """It is done, failed or cancelled: keep what is to be listed of it."""
        self._live.pop(transfer, None)
        self._ended.append((self._house.now(), status))

    def upload_ended(self, upload: Upload, name: str, done: bool) -> None:
        """Nothing more goes out of it."""
        status = _upload_status(upload, name, "done" if done else "cancelled")
        self._uploaded.append((self._house.now(), status))

    def find(self, transfer: str) -> Download:
        """A transfer that has not ended. NotFoundError."""
        download = self._live.get(TransferId(transfer))
        if download is None:
            raise NotFoundError(f"no transfer {escape(transfer)} is going on")
        return download

    def by_name(self, name: str) -> Download | None:
        """A transfer that is to get this name."""
        return next((each for each in self._live.values() if each.job.target == name), None)

    @property
    def count(self) -> int:
        """How many come in."""
        return len(self._live)

    def statuses(self, uploads: Iterator[tuple[str, Upload]]) -> list[TransferStatus]:
        """What `transfers` lists: going on first, then ended ones, newest first."""
        now = self._house.now()
        for ended in (self._ended, self._uploaded):
            while ended and now - ended[0][0] > KEEP_ENDED:
                ended.popleft()
        rows = [download.status() for download in self._live.values()]
        rows += [_upload_status(upload, name, "running") for name, upload in uploads]
        latest = sorted([*self._ended, *self._uploaded], key=lambda each: each[0], reverse=True)
        rows += [status for _, status in latest]
        return rows

    def tick(self, now: float) -> None:
        """Look at what is due, in every transfer; a fault in one of them stops no other."""
        for download in list(self._live.values()):
            try:
                download.tick(now)
            except Exception:
                download.broken(Failure())

    async def stop(self) -> None:
        """Keep everything for the next start."""
        for download in list(self._live.values()):
            await download.suspend()


async def _start(download: Download, *, durable: bool) -> None:
    """Where it cannot be started it ends, and whoever waits for the start is told why."""
    try:
        await download.start()
        if durable and not download.over:
            await download.promise()
    except P2PError as error:
        download.fail(error)
        raise
    except Exception:
        download.broken(Failure())
        raise


def _join(other: Download, job: Job) -> Download:
    """A second request for one name is joined where it asks for the same, else refused."""
    have, want = other.job, job
    same = attrs.evolve(
        have, transfer=want.transfer, created=want.created, paused=False, size=None, piece_size=None,
        file_id=want.file_id,
    )  # fmt: skip
    if same == want and want.file_id in (None, have.file_id):
        return other
    raise RefusedError(
        f"another transfer ({other.id}) is to get the name {escape(have.target)}: cancel it, or use --output"
    )


def _upload_status(upload: Upload, name: str, state: Any) -> TransferStatus:
    rate = upload.rate if state == "running" else 0.0
    return TransferStatus(
        upload.id, upload.name, upload.file_id, "out", state, upload.bytes,
        upload.copy.manifest.size, rate, (SourceStatus(name, upload.bytes, rate),),
    )  # fmt: skip
