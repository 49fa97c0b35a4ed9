"""Keeping a transfer's state on disk: when it is written, and when a disk that failed is tried again."""

from __future__ import annotations

import contextlib

from twisted.logger import Logger

from p2pd.errors import RefusedError, StorageError
from p2pd.peer.household import Household
from p2pd.peer.intake import Intake
from p2pd.share.partial import Job
from p2pd.text import escape

log = Logger("p2pd.peer")

SAVE_EVERY = 0.5
"""Seconds between two writings of the state; after a kill, pieces since the last one are fetched again."""
FIRST_RETRY = 2.0
LONGEST_RETRY = 60.0
"""Seconds until a transfer that the disk stopped is tried again: doubled each time it fails at once."""


class Keeper:
    """For one transfer. Times are monotonic seconds."""

    def __init__(self, house: Household) -> None:
        self._house = house
        self._saving = False
        self._saved = (0, house.now())
        self._retry_at: float | None = None
        self._pause = FIRST_RETRY
        self.durable = False
        """True once the job would survive a kill."""

    async def begin(self, job: Job, durable: bool) -> None:
        """Make the job durable if the disk lets us: it may yet turn out that nobody has the file.

        ``durable``: it is already, or there is nothing to be kept because the file is here.
        """
        self.durable = durable
        with contextlib.suppress(StorageError):
            await self.promise(job)

    async def promise(self, job: Job) -> None:
        """Make the job durable, where it is not yet; StorageError."""
        if not self.durable:
            await self._house.in_thread(lambda: self._house.store.save_job(job))
            self.durable = True

    async def discard(self, job: Job) -> None:
        """Remove all that is kept of it, if the disk lets us."""
        try:
            await self._house.in_thread(lambda: self._house.store.discard(job.transfer))
        except (StorageError, RefusedError) as error:
            log.warn("{file}: {why}", file=escape(job.name), why=escape(error.message))

    def loaded(self, held: int) -> None:
        """The partial file is there, and so many pieces are named in its state."""
        self.durable = True
        self._saved = (held, self._house.now())

    def due(self, intake: Intake, now: float) -> bool:
        """True where there is something new to be written."""
        if self._saving or self.in_trouble or now - self._saved[1] < SAVE_EVERY:
            return False
        return len(intake.transfer.held) != self._saved[0]

    async def write(self, intake: Intake, job: Job) -> None:
        """Name the pieces held; StorageError."""
        held = intake.transfer.held.copy()
        self._saving = True
        self._saved = (len(held), self._house.now())
        try:
            await self._house.in_thread(lambda: intake.file.save(held, job))
        finally:
            self._saving = False
        self._pause = FIRST_RETRY

    @property
    def in_trouble(self) -> bool:
        """True while the transfer rests because of the disk."""
        return self._retry_at is not None

    def failed(self, now: float) -> None:
        """The disk refused something."""
        self._retry_at = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_RETRY)

    def try_now(self, now: float) -> bool:
        """True, once, when it is time to try again."""
        if self._retry_at is None or now < self._retry_at:
            return False
        self._retry_at = now + self._pause
        return True

    def recovered(self) -> None:
        """There is room again."""
        self._retry_at = None
