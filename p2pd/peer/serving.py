"""The serving half of a conversation: grants, and the ranges that use them; answers are in `answering`."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.logger import Logger

from p2pd.errors import NotFoundError, P2PError, ProtocolError
from p2pd.fetch.picker import Run
from p2pd.model import FileId, Manifest
from p2pd.net.fast import FileSlice
from p2pd.peer.answering import Answering, Library, Link
from p2pd.peer.budgets import Budget, Budgets
from p2pd.share.hashing import StatKey
from p2pd.share.index import Entry
from p2pd.text import escape
from p2pd.threads import InThread
from p2pd.wire import messages as m
from p2pd.wire.codec import encode
from p2pd.wire.fields import sentence

MAX_GRANTS = 4
"""Grants open at once for one file in one conversation."""
GRANT_BYTES = 16 * 1024 * 1024
MAX_FILES = 64
"""Files that are open for one conversation; further ones wait."""
MAX_WAITING = 4096
LEAST_FRAME = 64 * 1024
FRAME_SECONDS = 0.02
"""A frame is as long as what goes out in this time: messages wait behind it."""
READ_AHEAD = 16 * 1024 * 1024
"""Bytes to have read from a cold disk while what comes before is sent."""
KEEP_OPEN = 10.0
"""Seconds after which a file that is asked for no longer is closed."""

log = Logger("p2pd.peer")


@attrs.define(eq=False)
class Upload:
    """A file going out to one peer; ``bytes`` sent, ``began`` and ``last`` in monotonic seconds."""

    file_id: FileId
    entry: Entry
    fd: int
    manifest: Manifest
    key: StatKey
    budget: Budget
    began: float
    last: float
    want: int = 0
    declined: bool = False
    """It had nothing to ask for just now, and may say `want` again."""
    over: bool = False
    """It has used up its budget."""
    open: dict[int, _Range | None] = attrs.Factory(dict)  # grant -> its range, once named
    bytes: int = 0
    rate: float = 0.0
    id: str = attrs.Factory(lambda: secrets.token_hex(6))
    """As `transfers` shows it."""
    _window: tuple[float, int] = (0.0, 0)

    def count(self, sent: int, now: float) -> None:
        """``sent`` bytes more."""
        self.bytes += sent
        self.budget.spend(sent, now)
        self.last = now
        start, before = self._window
        if now - start > 1.0:
            self.rate = (self.bytes - before) / (now - start) if start else 0.0
            self._window = (now, self.bytes)


@attrs.define(eq=False)
class _Range:
    upload: Upload
    grant: int
    run: Run
    at: int
    end: int


class Shop(Library, Protocol):
    """What all conversations of a daemon serve from."""

    budgets: Budgets

    @property
    def in_thread(self) -> InThread:
        """Runs blocking work."""

    def now(self) -> float:
        """Monotonic seconds."""

    def upload_ended(self, upload: Upload, name: str, done: bool) -> None:
        """For the list of ended transfers; ``name`` is the other's, ``done``: it wanted no more."""


class Serving:
    """See the module."""

    def __init__(self, link: Link, shop: Shop) -> None:
        self._link = link
        self._shop = shop
        self.answers = Answering(link, shop)
        self.uploads: dict[FileId, Upload] = {}
        self._grants: dict[int, Upload] = {}
        self._next_grant = 1
        self._waiting: dict[FileId, int] = {}
        self._queue: deque[_Range] = deque()
        self._frame: tuple[_Range, int] | None = None  # the one being sent, its length
        self._warming = False
        self._rate = 0.0
        self._rate_from = (0.0, 0)
        self._sent = 0
        self._ended = False

    def handlers(self) -> dict[type[m.Message], Callable[[Any], None]]:
        """Which messages this half takes."""
        return {
            **self.answers.handlers(),
            m.Want: self._on_want,
            m.Get: self._on_get,
            m.Decline: self._on_decline,
            m.Cancel: self._on_cancel,
        }

    @property
    def answering(self) -> bool:
        """True while something that was asked for is not yet sent."""
        return bool(self.answers.under_way or self._queue or self._frame)

    @property
    def busy(self) -> bool:
        """True while the other side may expect something."""
        return bool(self.answers.standing or self.answering or self.uploads)

    # Grants

    def _on_want(self, want: m.Want) -> None:
        file_id = FileId(want.file)
        upload = self.uploads.get(file_id)
        if upload is None:
            if not want.count:
                self._waiting.pop(file_id, None)
                return
            if len(self.uploads) >= MAX_FILES:
                self._put_off(file_id, want.count)
                return
            self._waiting.pop(file_id, None)
            try:
                upload = self._open(file_id)
            except P2PError as error:
                self._link.send(m.Gone(file_id, sentence(error.message)))
                return
        upload.want, upload.declined = want.count, False
        upload.last = self._shop.now()
        self._issue(upload)
        self._close_unwanted(upload)

    def _put_off(self, file_id: FileId, count: int) -> None:
        """Too many files are open for this conversation: its further wants wait for one to be closed."""
        if file_id not in self._waiting and len(self._waiting) >= MAX_WAITING:
            raise ProtocolError(f"want: more than {MAX_WAITING} files wait")
        self._waiting[file_id] = count

    def _open(self, file_id: FileId) -> Upload:
        index = self._shop.index
        entry = index.offered(file_id)
        if entry is None:
            raise NotFoundError("not offered here any more")
        fd, manifest, key = index.open(file_id)
        now = self._shop.now()
        other = self._link.other
        budget = self._shop.budgets.of(other.id, other.host, file_id, manifest.size, now)
        upload = Upload(file_id, entry, fd, manifest, key, budget, now, now)
        self.uploads[file_id] = upload
        return upload

    def _issue(self, upload: Upload) -> None:
        while len(upload.open) < min(upload.want, MAX_GRANTS) and self._affordable(upload):
            grant = self._next_grant
            self._next_grant += 1
            upload.open[grant] = None
            self._grants[grant] = upload
            self._link.send(m.Grant(upload.file_id, grant, max(GRANT_BYTES, upload.manifest.piece_size)))

    def _affordable(self, upload: Upload) -> bool:
        """False while the other side was sent too much of it: grants go on when its budget has recovered."""
        over = upload.budget.left(self._shop.now()) <= 0
        if over and not upload.over:
            log.info(
                "{name} was sent {file} too often and has to wait",
                name=self._link.name, file=escape(upload.entry.name),
            )  # fmt: skip
        upload.over = over
        return not over

    def _on_decline(self, decline: m.Decline) -> None:
        upload = self._grants.get(decline.grant)
        if upload is not None and upload.open[decline.grant] is None:
            # It has nothing to ask for: no further grants until it says `want` again.
            upload.want, upload.declined = 0, True
            self._finish(upload, decline.grant)

    def _finish(self, upload: Upload, grant: int) -> None:
        upload.open.pop(grant, None)
        self._grants.pop(grant, None)
        upload.last = self._shop.now()

    def _on_get(self, get: m.Get) -> None:
        upload = self._grants.get(get.grant)
        if upload is None:
            # Revoked by `gone`, or never given: either way nothing comes of it.
            self._link.send(m.Cancelled(get.grant))
            return
        if upload.open[get.grant] is not None:
            raise ProtocolError(f"get: grant: {get.grant} is used")
        manifest = upload.manifest
        if get.length > max(GRANT_BYTES, manifest.piece_size):
            raise ProtocolError("get: length: more than was granted")
        if get.offset + get.length > manifest.size:
            raise ProtocolError("get: the range goes beyond the end of the file")
        if not self._still(upload):
            return
        first = get.offset // manifest.piece_size
        run = Run(first, (get.offset + get.length - 1) // manifest.piece_size + 1)
        asked = _Range(upload, get.grant, run, get.offset, get.offset + get.length)
        upload.open[get.grant] = asked
        self._queue.append(asked)
        self._shop.activity.note("asks for", run, upload.entry.name, f"({self._link.name})")
        self._link.slices_ready()

    def _still(self, upload: Upload) -> bool:
        """True while the file is what was offered; if not, the other side is told, and it is offered anew."""
        if self._shop.index.still(upload.fd, upload.key, upload.entry.rel):
            return True
        with contextlib.suppress(P2PError):
            os.close(self._shop.index.open(upload.file_id)[0])  # makes the index look at it again
        self._gone(upload, "the file changed")
        return False

    def _gone(self, upload: Upload, why: str) -> None:
        self._queue = deque(item for item in self._queue if item.upload is not upload)
        self._drop_grants(upload)
        self._link.send(m.Gone(upload.file_id, sentence(why)))
        self._close(upload)

    def _on_cancel(self, cancel: m.Cancel) -> None:
        upload = self._grants.get(cancel.grant)
        if upload is not None:
            asked = upload.open[cancel.grant]
            if asked is not None and asked in self._queue:
                self._queue.remove(asked)
            # One under way stops after its frame: nothing of it is left in the queue.
            self._finish(upload, cancel.grant)
            self._issue(upload)
        self._link.send(m.Cancelled(cancel.grant))

    # Sending

    def next_slice(self) -> tuple[bytes, FileSlice] | None:
        """The next frame's header and bytes; called when nothing else waits to be sent."""
        now = self._shop.now()
        if self._frame is not None:
            asked, length = self._frame
            self._frame = None
            asked.upload.count(length, now)
            self._measure(length, now)
            if self.uploads.get(asked.upload.file_id) is not asked.upload:
                self._close(asked.upload)  # it was closed while this frame was under way
            if asked.at >= asked.end:
                self._range_sent(asked)
        while self._queue and not self._warming:
            asked = self._queue[0]
            if not self._still(asked.upload):
                continue
            length = min(asked.end - asked.at, self._frame_length())
            fd = asked.upload.fd
            if not _in_memory(fd, asked.at, length):
                self._warm(asked, length)
                return None
            frame = m.Data(asked.grant, asked.at, length)
            piece = FileSlice(fd, asked.at, length)
            asked.at += length
            if asked.at >= asked.end:
                self._queue.popleft()
            self._frame = (asked, length)
            return encode(frame), piece
        if not self.answering:
            self._link.answered()
        return None

    def _frame_length(self) -> int:
        """Bytes, a multiple of :data:`LEAST_FRAME`: few calls where it is fast, short waits elsewhere."""
        steps = int(self._rate * FRAME_SECONDS) // LEAST_FRAME
        return max(LEAST_FRAME, min(steps * LEAST_FRAME, m.MAX_FRAME))

    def _range_sent(self, asked: _Range) -> None:
        upload = asked.upload
        if asked.grant in upload.open:
            self._finish(upload, asked.grant)
            self._shop.activity.note("sent", asked.run, upload.entry.name, f"to {self._link.name}")
            self._issue(upload)
            self._close_unwanted(upload)

    def _close_unwanted(self, upload: Upload) -> None:
        """The other side said that it wants no more of it, and has all that it named."""
        if not upload.want and not upload.declined and not any(upload.open.values()):
            self._drop_grants(upload)
            self._close(upload, done=True)

    def _drop_grants(self, upload: Upload) -> None:
        for grant in upload.open:
            self._grants.pop(grant, None)
        upload.open.clear()

    def _measure(self, length: int, now: float) -> None:
        self._sent += length
        start, before = self._rate_from
        if now - start >= 0.02:
            self._rate = (self._sent - before) / (now - start)
            self._rate_from = (now, self._sent)

    def _warm(self, asked: _Range, length: int) -> None:
        """Reading from a cold disk would stop the reactor: let a thread wait for it."""
        try:
            fd = os.dup(asked.upload.fd)
        except OSError as error:  # no descriptor left
            self._gone(asked.upload, f"reading failed: {error.strerror}")
            return
        self._warming = True

        def read() -> None:
            try:
                os.posix_fadvise(fd, asked.at, READ_AHEAD, os.POSIX_FADV_WILLNEED)
                at, end = asked.at, asked.at + length
                while at < end:
                    count = len(os.pread(fd, min(256 * 1024, end - at), at))
                    if not count:
                        break
                    at += count
            finally:
                os.close(fd)

        async def work() -> None:
            try:
                await self._shop.in_thread(read)
            except OSError as error:
                # It may have been closed meanwhile: its descriptor may be somebody else's now.
                if self.uploads.get(asked.upload.file_id) is asked.upload:
                    self._gone(asked.upload, f"reading failed: {error.strerror}")
            finally:
                self._warming = False
                self._link.slices_ready()

        self.answers.spawn(work())

    def slice_failed(self, reason: str) -> None:
        """A frame could not be sent as its header said: the conversation is over."""
        if self._frame is not None:
            upload = self._frame[0].upload
            log.info("{file}: {reason}", file=escape(upload.entry.name), reason=reason)
            self._still(upload)

    # The end

    def _close(self, upload: Upload, done: bool = False) -> None:
        """``done``: the other side wanted no more of it, and did not just go away."""
        if self.uploads.get(upload.file_id) is upload:
            del self.uploads[upload.file_id]
        if self._frame is not None and self._frame[0].upload is upload:
            return  # the transport still reads from it
        os.close(upload.fd)
        if upload.bytes:
            self._shop.upload_ended(upload, self._link.name, done)
        while self._waiting and not self._ended and len(self.uploads) < MAX_FILES:
            file_id = next(iter(self._waiting))
            self._on_want(m.Want(file_id, self._waiting.pop(file_id)))

    def tick(self, now: float) -> None:
        """Close what nobody asks for any more."""
        for upload in list(self.uploads.values()):
            if upload.over:
                self._issue(upload)
            unused = all(asked is None for asked in upload.open.values())
            if unused and now - upload.last > KEEP_OPEN:
                self._drop_grants(upload)
                self._close(upload, done=True)

    def end(self) -> None:
        """The conversation is over."""
        self._ended = True
        self.answers.end()
        self._queue.clear()
        self._waiting.clear()
        frame, self._frame = self._frame, None
        if frame is not None and self.uploads.get(frame[0].upload.file_id) is not frame[0].upload:
            self._close(frame[0].upload)  # it was closed while this frame was under way
        for upload in list(self.uploads.values()):
            self._close(upload)


def _in_memory(fd: int, offset: int, length: int) -> bool:
    """True where sendfile of this range would not wait for the disk, by a sample of its pages."""
    buffer = bytearray(1)
    last = offset + length - 1
    for at in (*range(offset, last, 128 * 1024), last):
        try:
            os.preadv(fd, [buffer], at, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system that cannot tell, such as tmpfs
    return True
