"""All transfers of a peer: those coming in, those going out, and those that ended within the hour."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from p2pd.errors import NotFoundError, P2PError, RefusedError, StorageError
from p2pd.model import FileId, TransferId
from p2pd.peer.download import Download
from p2pd.peer.household import Household
from p2pd.peer.serving import Upload
from p2pd.share.partial import Job
from p2pd.share.paths import canonical_name, is_hidden
from p2pd.status import SourceStatus, TransferStatus
from p2pd.text import escape

KEEP_ENDED = 3600.0
"""Seconds for which ended transfers stay listed."""
MAX_ENDED = 1000

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
        self._loaded: Deferred[None] = Deferred()

    async def load(self) -> list[str]:
        """Go on with what an earlier run left; gives sentences about what was damaged."""
        loaded = await self._house.in_thread(self._house.store.load)
        begun = []
        for job, manifest, held in loaded:
            download = Download(self._house, job, resumed=True)
            self._live[download.id] = download
            begun.append((download, manifest, held))
        # Known before anything is asked for: a req for one of them joins it.
        self._loaded.callback(None)
        for download, manifest, held in begun:
            try:
                await download.start(manifest, held)
            except StorageError as error:
                download.storage_failed(error)
        return list(self._house.store.problems)

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
                return _join(other, job)
        download = Download(self._house, job)
        self._live[download.id] = download
        try:
            await download.start()
        except P2PError:
            self._live.pop(download.id, None)
            raise
        return download

    def download_ended(self, transfer: TransferId, status: TransferStatus) -> None:
        """It is done, failed or cancelled: keep what is to be listed of it."""
        self._live.pop(transfer, None)
        self._ended.append((self._house.now(), status))

    def upload_ended(self, upload: Upload, name: str) -> None:
        """Nothing more goes out of it."""
        complete = upload.bytes >= upload.manifest.size
        self._ended.append(
            (self._house.now(), _upload_status(upload, name, "done" if complete else "cancelled"))
        )

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
        while self._ended and now - self._ended[0][0] > KEEP_ENDED:
            self._ended.popleft()
        rows = [download.status() for download in self._live.values()]
        rows += [_upload_status(upload, name, "running") for name, upload in uploads]
        rows += [status for _, status in reversed(self._ended)]
        return rows

    def tick(self, now: float) -> None:
        """Look at what is due, in every transfer."""
        for download in list(self._live.values()):
            download.tick(now)

    async def stop(self) -> None:
        """Keep everything for the next start."""
        for download in list(self._live.values()):
            await download.suspend()


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
        f"{id(upload) & 0xFFFFFFFFFFFF:012x}", upload.entry.name, upload.file_id, "out", state, upload.bytes,
        upload.manifest.size, rate, (SourceStatus(name, upload.bytes, rate),),
    )  # fmt: skip
