"""The serving half of a conversation: what was granted and named is sent; answers are in `answering`."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import Logger

from p2pd.errors import P2PError, ProtocolError
from p2pd.fetch.granting import Granting
from p2pd.fetch.picker import Run
from p2pd.model import FileId
from p2pd.net.fast import FileSlice
from p2pd.net.limits import Limit
from p2pd.peer.answering import Answering, Library, Link
from p2pd.peer.budgets import Budgets
from p2pd.peer.upload import Given, Range, Upload
from p2pd.pieces import run_mask
from p2pd.text import escape
from p2pd.threads import InThread
from p2pd.wire import messages as m
from p2pd.wire.codec import encode
from p2pd.wire.fields import sentence

MAX_FILES = 64
"""Files that are open for one conversation; further ones wait."""
MAX_WAITING = 4096
LEAST_FRAME = 64 * 1024
FRAME_SECONDS = 0.05
"""A frame is as long as what goes out to all in this time: messages wait behind it."""
LONGEST_FRAME = 0.5
"""Seconds that it takes at most, at the rate of the one that it goes to."""
QUEUE_SECONDS = 0.04
ALL_SECONDS = 0.16
"""What goes out to all in this time may wait in the kernel for one, or for all together, beyond what each has
at least: we may have to wait for a processor, but what is said waits behind it."""
READ_AHEAD = 16 * 1024 * 1024
"""Bytes to have read from a cold disk while what comes before is sent."""
KEEP_OPEN = 10.0
"""Seconds after which a file that is asked for no longer is closed."""

log = Logger("p2pd.peer")


class Shop(Library, Protocol):
    """What all conversations of a daemon serve from."""

    budgets: Budgets
    granting: Granting
    up: Limit
    """Of all that goes out."""

    @property
    def in_thread(self) -> InThread:
        """Runs blocking work."""

    def now(self) -> float:
        """Monotonic seconds."""

    def upload_ended(self, upload: Upload, name: str, done: bool) -> None:
        """For the list of ended transfers; ``name`` is the other's, ``done``: it wanted no more."""


class Counter:
    """Carries out what Granting says; clients are :class:`Serving`, files their ids."""

    def grant(self, client: Any, file: Any, grant: int, limit: int, run: Run | None, *, needed: bool) -> None:
        """Part of :class:`~p2pd.fetch.driver.GrantingDriver`."""
        client.granted(file, grant, limit, run, needed)

    def send(self, client: Any, grant: int) -> None:
        """Part of :class:`~p2pd.fetch.driver.GrantingDriver`."""
        client.send_range(grant)


class Serving:
    """See the module."""

    def __init__(self, link: Link, shop: Shop) -> None:
        self._link = link
        self._shop = shop
        self.answers = Answering(link, shop)
        self.uploads: dict[FileId, Upload] = {}
        self._grants: dict[int, Upload] = {}
        self._waiting: dict[FileId, m.Want] = {}
        self._queue: deque[Range] = deque()
        self._frame: tuple[Range, int] | None = None  # the one being sent, its length
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
        return bool(self.answers.under_way or self._queue or self._frame) or any(
            upload.busy for upload in self.uploads.values()
        )

    @property
    def busy(self) -> bool:
        """True while the other side may expect something."""
        return bool(self.answers.standing or self.uploads or self.answering)

    def concerned(self, file_id: FileId) -> bool:
        """True where the other side was told of a part of that file, and its `req` stands."""
        return self.answers.told(file_id)

    def hears(self, file_id: FileId) -> bool:
        """True where it matters here which pieces of that file the other side has."""
        return self._shop.granting.knows(file_id)

    def has(self, file_id: FileId, mask: int) -> None:
        """The other side announces pieces (see :func:`p2pd.pieces.mask_of`). IndexError out of range."""
        self._shop.granting.has(self, file_id, mask, self._shop.now())

    # Grants

    def _on_want(self, want: m.Want) -> None:
        file_id = FileId(want.file)
        upload = self.uploads.get(file_id)
        if upload is None:
            if not want.count:
                self._waiting.pop(file_id, None)
                return
            if len(self.uploads) >= MAX_FILES:
                self._put_off(file_id, want)
                return
            self._waiting.pop(file_id, None)
            try:
                upload = self._open(file_id)
            except P2PError as error:
                self._link.send(m.Gone(file_id, sentence(error.message)))
                return
        upload.want, upload.declined = want.count, False
        upload.last = self._shop.now()
        upload.once = want.once
        self._tell_granting(upload, want.place)
        self._close_unwanted(upload)

    def _put_off(self, file_id: FileId, want: m.Want) -> None:
        """Too many files are open for this conversation: its further wants wait for one to be closed."""
        if file_id not in self._waiting and len(self._waiting) >= MAX_WAITING:
            raise ProtocolError(f"want: more than {MAX_WAITING} files wait")
        self._waiting[file_id] = want

    def _open(self, file_id: FileId) -> Upload:
        copy, other, now = self._shop.stock.open(file_id), self._link.other, self._shop.now()
        budget = self._shop.budgets.of(other.id, other.host, file_id, copy.manifest.size, now)
        upload = Upload(file_id, copy, budget, now, now)
        self.uploads[file_id] = upload
        return upload

    def _tell_granting(self, upload: Upload, place: int = 0) -> None:
        count = upload.want if self._affordable(upload) else 0
        granting, copy, manifest = self._shop.granting, upload.copy, upload.copy.manifest
        pieces = (manifest.count, manifest.piece_size, copy.held, copy.first)
        granting.offer(upload.file_id, *pieces, at_once=copy.long_at_once)
        # What it offered it is not to be given, also where nobody here listened when it did.
        known = self._link.said(upload.file_id) & run_mask(0, manifest.count)
        if known and count:
            granting.has(self, upload.file_id, known, self._shop.now())
        granting.want(
            self, upload.file_id, count, self._shop.now(),
            place=place, once=upload.once, quiet=upload.declined,
        )  # fmt: skip

    def _affordable(self, upload: Upload) -> bool:
        """False while the other side was sent too much of it: grants go on when its budget has recovered."""
        over = upload.budget.left(self._shop.now()) <= 0
        if over and not upload.over:
            log.info(
                "{name} was sent {file} too often and has to wait",
                name=self._link.name, file=escape(upload.name),
            )  # fmt: skip
        upload.over = over
        return not over

    def granted(self, file_id: FileId, grant: int, limit: int, run: Run | None, needed: bool) -> None:
        """Part of :class:`Counter`."""
        upload = self.uploads[file_id]
        upload.open[grant] = Given(upload, limit, run)
        self._grants[grant] = upload
        first, count = (run.first, len(run)) if run is not None else (0, 0)
        self._shop.stock.catch_up(self._link, file_id)
        self._link.send(m.Grant(file_id, grant, limit, first, count, needed))

    def _on_decline(self, decline: m.Decline) -> None:
        upload = self._grants.get(decline.grant)
        if upload is None or upload.open[decline.grant].asked is not None:
            return
        named = upload.open[decline.grant].run is not None
        self._finish(upload, decline.grant)
        put_off = self._shop.granting.declined(decline.grant, self._shop.now(), later=decline.later)
        if not (named or put_off):
            # It has nothing to ask for: until it says `want` again it gets only what we name.
            upload.declined = True

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
        given = upload.open[get.grant]
        if given.asked is not None:
            raise ProtocolError(f"get: grant: {get.grant} is used")
        manifest = upload.copy.manifest
        if get.length > given.limit:
            raise ProtocolError("get: length: more than was granted")
        if get.offset + get.length > manifest.size:
            raise ProtocolError("get: the range goes beyond the end of the file")
        first = get.offset // manifest.piece_size
        run = Run(first, (get.offset + get.length - 1) // manifest.piece_size + 1)
        if given.run is not None and not given.run.first <= run.first < run.end <= given.run.end:
            raise ProtocolError("get: offset: pieces other than those granted")
        if not self._still(upload):
            return
        held = upload.copy.held
        if held is not None and run.mask & ~held.mask:
            # Not blamed: what was held may have been lost with the disk that it was on.
            self._gone(upload, "a piece that is not here")
            return
        given.asked = Range(upload, get.grant, run, get.offset, get.offset + get.length)
        self._shop.activity.note("asks for", run, upload.name, f"({self._link.name})")
        self._shop.granting.named(get.grant, run, get.length, self._shop.now())

    def send_range(self, grant: int) -> None:
        """Part of :class:`Counter`."""
        asked = self._grants[grant].open[grant].asked
        assert asked is not None
        self._queue.append(asked)
        self._link.slices_ready()

    def _still(self, upload: Upload) -> bool:
        """True while the file is what was offered; if not, the other side is told, and it is offered anew."""
        if upload.copy.still():
            return True
        with contextlib.suppress(P2PError):
            self._shop.stock.look_again(upload.file_id)
        self._gone(upload, "the file changed")
        return False

    def withdrawn(self, file_id: FileId) -> None:
        """A part of it that was offered is not there any more."""
        upload = self.uploads.get(file_id)
        if upload is not None and not upload.copy.still():
            self._gone(upload, "it does not come any more")
        elif upload is None and self.answers.told(file_id):
            self._link.send(m.Gone(file_id, "it does not come any more"))

    def _gone(self, upload: Upload, why: str) -> None:
        self._queue = deque(item for item in self._queue if item.upload is not upload)
        self._link.send(m.Gone(upload.file_id, sentence(why)))
        self._close(upload)

    def _on_cancel(self, cancel: m.Cancel) -> None:
        upload = self._grants.get(cancel.grant)
        if upload is not None:
            asked = upload.open[cancel.grant].asked
            if asked is not None and asked in self._queue:
                self._queue.remove(asked)
            # One under way stops after its frame: nothing of it is left in the queue.
            self._finish(upload, cancel.grant)
        # Before what is granted instead: who reads this may then use that.
        self._link.send(m.Cancelled(cancel.grant))
        if upload is not None:
            self._shop.granting.dropped(cancel.grant, self._shop.now())

    # Sending

    def next_slice(self) -> tuple[bytes, FileSlice] | None:
        """The next frame's header and bytes; called when nothing else waits to be sent."""
        now = self._shop.now()
        if self._frame is not None:
            asked, length = self._frame
            self._frame = None
            asked.upload.count(length, now)
            self._measure(length, now)
            self._shop.granting.sent(length, now)
            if self.uploads.get(asked.upload.file_id) is not asked.upload:
                self._close(asked.upload)  # it was closed while this frame was under way
            if asked.at >= asked.end:
                self._range_sent(asked)
        limit = self._shop.up
        while self._queue and not self._warming:
            asked = self._queue[0]
            if not self._still(asked.upload):
                continue
            length = min(asked.end - asked.at, self._frame_length())
            if limit.rate is not None:
                if limit.exceeded():
                    limit.when_free(self._link.slices_ready)
                    return None
                length = min(length, limit.step)
            copy = asked.upload.copy
            if not copy.in_memory(asked.at, length):
                self._warm(asked, length)
                return None
            frame = m.Data(asked.grant, asked.at, length)
            piece = FileSlice(copy.fd, asked.at, length, self._queue_length())
            asked.at += length
            if asked.at >= asked.end:
                self._queue.popleft()
            self._frame = (asked, length)
            limit.spend(length)
            return encode(frame), piece
        if not self.answering:
            self._link.answered()
        return None

    def _frame_length(self) -> int:
        """Bytes, a multiple of :data:`LEAST_FRAME`: few calls where it is fast, short waits elsewhere."""
        steps = self._bytes_in(FRAME_SECONDS) // LEAST_FRAME
        return max(LEAST_FRAME, min(steps * LEAST_FRAME, m.MAX_FRAME))

    def _queue_length(self) -> int:
        """Bytes that may wait in the kernel; 0: not known yet."""
        downloaders = max(self._shop.granting.downloaders, 1)
        return self._bytes_in(min(QUEUE_SECONDS, ALL_SECONDS / downloaders))

    def _bytes_in(self, seconds: float) -> int:
        """Bytes that go out to all in that time; no more than go to this one in :data:`LONGEST_FRAME`."""
        rate = max(self._rate, self._shop.granting.outflow.rate)
        return int(min(rate * seconds, self._rate * LONGEST_FRAME))

    def _range_sent(self, asked: Range) -> None:
        upload = asked.upload
        if asked.grant in upload.open:
            self._finish(upload, asked.grant)
            self._shop.activity.note("sent", asked.run, upload.name, f"to {self._link.name}")
            if not self._affordable(upload):
                self._tell_granting(upload)
            self._shop.granting.finished(asked.grant, self._shop.now())
            self._close_unwanted(upload)

    def _close_unwanted(self, upload: Upload) -> None:
        """The other side said that it wants no more of it, and has all that it named."""
        if not upload.want and not upload.declined and not upload.busy:
            self._close(upload, done=True)

    def _measure(self, length: int, now: float) -> None:
        self._sent += length
        start, before = self._rate_from
        if now - start >= 0.02:
            self._rate = (self._sent - before) / (now - start)
            self._rate_from = (now, self._sent)

    def _warm(self, asked: Range, length: int) -> None:
        """Reading from a cold disk would stop the reactor: let a thread wait for it."""
        try:
            fd = os.dup(asked.upload.copy.fd)
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
            log.info("{file}: {reason}", file=escape(upload.name), reason=reason)
            self._still(upload)

    # The end

    def _close(self, upload: Upload, done: bool = False) -> None:
        """``done``: the other side wanted no more of it, and did not just go away."""
        if self.uploads.get(upload.file_id) is upload:
            del self.uploads[upload.file_id]
            for grant in upload.open:
                self._grants.pop(grant, None)
            upload.open.clear()
            self._shop.granting.unwanted(self, upload.file_id, self._shop.now())
        if self._frame is not None and self._frame[0].upload is upload:
            return  # the transport still reads from it
        upload.copy.close()
        if upload.bytes:
            self._shop.upload_ended(upload, self._link.name, done)
        while self._waiting and not self._ended and len(self.uploads) < MAX_FILES:
            self._on_want(self._waiting.pop(next(iter(self._waiting))))

    def tick(self, now: float) -> None:
        """Close what nobody asks for any more."""
        for upload in list(self.uploads.values()):
            if upload.over:
                self._tell_granting(upload)
            # One who waits for a part to come on has not forgotten it.
            # But what nothing is chosen of keeps no place from what waits for one.
            unused = upload.copy.held is None or not upload.want or (upload.declined and self._waiting)
            idle = not upload.busy and unused
            if idle and now - upload.last > KEEP_OPEN:
                self._close(upload, done=True)

    def stop_granting(self) -> None:
        """Nothing more is sent, though the connection is still there: others get their turn."""
        self._shop.granting.left(self, self._shop.now())

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
        self._shop.granting.left(self, self._shop.now())
