"""One file coming in, from the `req` to its name in the share.

ask -> offers -> choose -> manifest -> partial file -> pieces -> verified -> durable -> listed.
Who is asked is :class:`~p2pd.peer.asking.Asking`'s business, what their answers mean
:class:`~p2pd.peer.offers.Offers`', the bytes :class:`~p2pd.peer.intake.Intake`'s.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import attrs
from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from p2pd.errors import (
    ConflictError,
    NoSourcesError,
    NotFoundError,
    P2PError,
    StorageError,
    VerifyError,
)
from p2pd.model import Manifest, Offer, PeerInfo, check_dimensions
from p2pd.peer.asking import Asking
from p2pd.peer.choosing import Choosing, Verdict, peer_of
from p2pd.peer.fetching import Fetching
from p2pd.peer.here import pinned_content, same_content
from p2pd.peer.household import Household
from p2pd.peer.intake import Intake
from p2pd.peer.keeping import Keeper
from p2pd.peer.listing import ListAsking
from p2pd.peer.offers import Offers
from p2pd.peer.waiting import Emit, Waiter, Waiters
from p2pd.pieces import Bitfield
from p2pd.share.disk import check_room
from p2pd.share.index import Entry
from p2pd.share.partial import Job
from p2pd.status import State, TransferStatus
from p2pd.text import escape

PROGRESS_EVERY = 0.2

log = Logger("p2pd.peer")


class Download:
    """See the module. ``state`` is one of those of docs/cli.md.

    A ``resumed`` one was there before the daemon's start: its content is
    chosen, and it waits for its sources however long that takes.
    """

    def __init__(self, house: Household, job: Job, *, resumed: bool = False) -> None:
        self._house = house
        self.job = job
        self.id = job.transfer
        self.state: State = "paused" if job.paused else "waiting"
        self.error: P2PError | None = None
        self.ended_at: float | None = None
        self._resumed = resumed
        self._began = house.now()
        self._offers = Offers(self._began)
        self._choosing = Choosing(self._offers, job.file_id, settled=resumed)
        self._asking = Asking(
            job.name, house.contacts, self._offers,
            allowed=self._allowed, offered=self._offered, left=self._left, answered=self._answered,
        )  # fmt: skip
        self._intake: Intake | None = None
        self._size: int | None = job.size
        self._waiters = Waiters()
        self._told = 0.0
        self._local: Entry | None = None
        self._compared = resumed  # with what is here, once the offers are closed
        self._lists: ListAsking | None = None
        self._checking = False
        self._finishing = False
        self._recheck = False
        self._keeper = Keeper(house)
        self._sourceless_since = self._began

    def _allowed(self, info: PeerInfo) -> bool:
        return info.id not in self._choosing.untrusted and (
            not self.job.sources or info.name in self.job.sources
        )

    # Life

    async def start(self, manifest: Manifest | None = None, held: Bitfield | None = None) -> None:
        """Make the job durable and begin; a resumed one brings what its state names as held.

        StorageError where the share cannot be written.
        """
        if not self._resumed:
            if not self.job.replace:
                self._local = await self._house.index.find(self.job.target)
            if self._local is None:
                job = self.job
                await self._house.in_thread(lambda: self._house.store.save_job(job))
            elif self._choosing.pinned:
                await self._look_here(pinned_content(self._house, self.job, self._local))
        elif manifest is not None and held is not None:
            self._checking = True
            self.state = "verifying"
            await self._open(manifest, held)
            self._checking = False
        if self.ended_at is None:
            self.tick(self._house.now())

    async def _open(self, manifest: Manifest, held: Bitfield) -> None:
        """The partial file, and what of it is held: after a restart that is hashed again."""
        job = self.job
        self._size = manifest.size
        file = await self._house.in_thread(lambda: self._house.store.begin(job, manifest))
        if len(held):
            named = held
            held = await self._house.in_thread(lambda: file.rehash(named, lambda: self.ended_at is not None))
        if self.ended_at is not None:
            file.close()
            return
        house = self._house
        self._intake = Intake(
            self, name=self.job.name, manifest=manifest, held=held, file=file,
            now=house.now, activity=house.activity, pool=house.pool,
        )  # fmt: skip
        self._choosing.choose(manifest)
        self._keeper.loaded(len(held))
        if self.job.paused:
            self._intake.transfer.pause()
        for source, offer, have in list(self._choosing.offering.values()):
            self._use(source, offer, have)
        self.complete()

    def tick(self, now: float) -> None:
        """Look at what is due; called every :data:`p2pd.fetch.transfer.TICK` seconds, and more often."""
        if self.ended_at is not None:
            return
        self._offers.roster_known = self._house.roster_known()
        if not self.job.paused:
            self._asking.sweep(now)
        intake = self._intake
        if intake is not None:
            intake.transfer.tick(now)
            self._waiters.measure(intake.transfer.bytes_held, now)
        if self._lists is not None:
            self._lists.tick(now)
        self._answered()
        if not self.job.paused and self._keeper.try_now(now):
            self._spawn(self._try_storage())
        self._watch_sources(now)
        self._show_state()
        if intake is not None and not self._finishing and self._keeper.due(intake, now):
            self._spawn(self._save(intake))
        if intake is not None and now - self._told >= PROGRESS_EVERY:
            self._told = now
            self._waiters.progress(intake)

    def _show_state(self) -> None:
        intake = self._intake
        if self.ended_at is not None:
            return
        if self._finishing or self._checking:
            self.state = "verifying"
        elif self.job.paused:
            self.state = "paused"
        elif intake is not None:
            self.state = "running" if intake.live and not intake.transfer.paused else "waiting"
        else:
            self.state = "hashing" if self._offers.hashing_somewhere else "waiting"

    # Offers

    def _offered(self, source: Fetching, offer: Offer, have: Bitfield | None) -> None:
        if self.ended_at is not None:
            return
        try:
            check_dimensions(offer.size, offer.piece_size)
        except ValueError as error:
            log.warn("{name}: bad offer: {why}", name=source.link.name, why=str(error))
            self.untrusted(source)
            return
        verdict = self._choosing.judge(source, offer, have, self._house.now())
        if verdict is Verdict.ASK_AGAIN:
            chosen = self._choosing.chosen()
            assert chosen is not None
            self._asking.ask_again(source, chosen[1])
        elif verdict is Verdict.USE and (self._local is None or self._compared):
            self._begin_with(source, offer, have)
        self._answered()
        # What is here already is compared first, when the offers are closed; and a conflict is
        # told then, because whoever is to choose wants to see all contents and all their holders.

    def _begin_with(self, source: Fetching, offer: Offer, have: Bitfield | None) -> None:
        if self._intake is not None:
            self._use(source, offer, have)
        elif self._lists is None and not self._checking and not self._keeper.in_trouble:
            self._spawn(self._begin())

    def _use(self, source: Fetching, offer: Offer, have: Bitfield | None) -> None:
        if self._intake is not None and offer.file_id == self._intake.file_id:
            self._intake.add(source, peer_of(source), have)

    async def _begin(self) -> None:
        """The first offer: get its manifest from any holder, then its partial file."""
        self._lists = ListAsking(
            self._choosing, self._house.now, note=self._note, untrusted=self.untrusted
        )  # fmt: skip
        try:
            manifest = await self._lists.manifest()
            if manifest is not None and self.ended_at is None:
                self.job = attrs.evolve(
                    self.job, file_id=manifest.file_id, size=manifest.size, piece_size=manifest.piece_size
                )
                await self._open(manifest, Bitfield(manifest.count))
        except StorageError as error:
            self.storage_failed(error)
        finally:
            self._lists = None

    def _answered(self) -> None:
        if self.ended_at is None and not self._compared and self._offers.closed(self._house.now()):
            self._close_offers()
        self.complete()

    def _close_offers(self) -> None:
        self._compared = True
        if self._choosing.contested:
            text = f"{escape(self.job.name)} stands for different contents: choose one with --id"
            self._fail(ConflictError(text, variants=self._choosing.variants()))
        else:
            self._spawn(self._offers_closed())

    async def _offers_closed(self) -> None:
        """Everybody has answered: is it here already, nowhere, or may it get its name?"""
        if self._local is not None:
            await self._look_here(same_content(self._house, self.job, self._choosing, self._local))
            return
        if self._intake is not None or self._lists is not None or self._choosing.untrusted:
            return
        name, groups = escape(self.job.name), self._offers.by_id()
        if not groups:
            text = f"nobody has {name}"
            if self._offers.unreached:
                text += f" ({self._offers.unreached} of {self._offers.count} peers could not be reached)"
            self._fail(NotFoundError(text))
        elif self._choosing.pinned and self.job.file_id not in groups:
            self._fail(NotFoundError(f"nobody has {name} with that id", variants=self._choosing.variants()))

    async def _look_here(self, looking: Coroutine[Any, Any, Manifest | None]) -> None:
        try:
            manifest = await looking
        except P2PError as error:
            self._fail(error)
        else:
            if manifest is not None and self.ended_at is None:
                self._succeed(manifest)

    # Sources

    def _left(self, source: Fetching) -> None:
        if self._intake is not None:
            self._intake.drop(source)
        self._choosing.forget(source)

    def untrusted(self, source: Fetching) -> None:
        """Part of :class:`~p2pd.peer.intake.Owner`."""
        self._choosing.distrust(source)

    def source_gone(self, source: Fetching) -> None:
        """Part of :class:`~p2pd.peer.intake.Owner`: its `req` stands, so it offers anew what it has then."""
        self._choosing.forget(source)

    def _watch_sources(self, now: float) -> None:
        intake = self._intake
        busy = self.job.paused or self._finishing or self._checking or self._keeper.in_trouble
        if (
            busy
            or (intake is not None and intake.live)
            or (intake is None and self._offers.hashing_somewhere)
        ):
            self._sourceless_since = now
        elif self._compared or self._choosing.untrusted or self._choosing.offering:
            text = (
                f"no source of {escape(self.job.name)} is left; what came is kept, and it goes on by itself"
            )
            self._waiters.release_late(self._sourceless_since, now, lambda: NoSourcesError(text))

    # The end of the bytes

    def complete(self) -> None:
        """Part of :class:`~p2pd.peer.intake.Owner`; once offers are closed, it may get its name."""
        intake = self._intake
        if intake is None or not intake.transfer.done or self._finishing or self.ended_at is not None:
            return
        if self._keeper.in_trouble:
            return
        if not self._compared:
            if self._offers.closed(self._house.now()):
                self._answered()  # comes back here
            return
        self._finishing = True
        self.state = "verifying"
        self._spawn(self._finish(intake))

    async def _finish(self, intake: Intake) -> None:
        in_thread, job = self._house.in_thread, self.job
        intake.drop_all()
        try:
            if job.sha256 is not None:
                digest = await in_thread(
                    lambda: intake.file.digest("sha256", lambda: self.ended_at is not None)
                )
                if digest != job.sha256:
                    raise VerifyError(f"{escape(job.name)}: its SHA-256 is {digest}")
            if self.ended_at is not None:
                return
            await in_thread(lambda: intake.file.finish(job.target, job.replace))
            await self._house.index.adopt(job.target, intake.manifest)
        except StorageError as error:
            self._finishing = False
            self._recheck = True
            self.storage_failed(error)
        except P2PError as error:
            self._fail(error)
        else:
            self._succeed(intake.manifest)

    # Storage

    def storage_failed(self, error: StorageError) -> None:
        """Part of :class:`~p2pd.peer.intake.Owner`: rest, say so, try again later."""
        if self.ended_at is not None:
            return
        self.error = error
        log.warn("{file}: {why}", file=escape(self.job.name), why=error.message)
        if self._intake is not None:
            self._intake.transfer.pause()
        self._keeper.failed(self._house.now())
        self._show_state()  # before anybody who is told of it looks
        self._waiters.release(error)

    async def _try_storage(self) -> None:
        intake = self._intake
        missing = self._size or 0
        if intake is not None:
            missing -= intake.transfer.bytes_held
        try:
            await self._house.in_thread(lambda: check_room(self._house.root, missing))
        except StorageError as error:
            self.error = error
            return
        if self.ended_at is not None or not self._keeper.in_trouble:
            return
        log.info("{file}: there is room again, going on", file=escape(self.job.name))
        self.error = None
        self._keeper.recovered()
        if intake is not None and self._recheck:
            # It could not be finished: nobody knows what of it is on the disk until it is read.
            self._recheck, self._intake, self._checking = False, None, True
            intake.file.close()
            try:
                await self._open(intake.manifest, intake.transfer.held)
            except StorageError as error:
                self._intake = intake
                self._recheck = True
                self.storage_failed(error)
            finally:
                self._checking = False
        elif intake is not None:
            intake.transfer.resume(self._house.now())
        for offering in list(self._choosing.offering.values())[:1]:
            self._begin_with(*offering)

    async def _save(self, intake: Intake) -> None:
        try:
            await self._keeper.write(intake, self.job)
        except StorageError as error:
            if not self._finishing:
                self.storage_failed(error)

    # Who waits for it, and who looks at it

    def wait(self, emit: Emit, timeout: float) -> Waiter:
        """A client waits; it leaves by :meth:`leave`."""
        return self._waiters.add(emit, timeout, self._house.now())

    def leave(self, waiter: Waiter) -> None:
        """The client waits no longer; the transfer goes on."""
        self._waiters.remove(waiter)

    def status(self) -> TransferStatus:
        """What `transfers` shows of it."""
        intake = self._intake
        held = intake.transfer.bytes_held if intake is not None else 0
        if self.state == "done":
            held = self._size or 0
        return TransferStatus(
            self.id, self.job.name, self.job.file_id, "in", self.state, held, self._size,
            self._waiters.rate if self.state == "running" else 0.0,
            tuple(intake.sources()) if intake is not None else (),
            self.error.code if self.error is not None else None,
            self.error.message if self.error is not None else None,
        )  # fmt: skip

    @property
    def pieces(self) -> tuple[Manifest, Bitfield] | None:
        """What is held of it so far."""
        intake = self._intake
        return (intake.manifest, intake.transfer.held) if intake is not None else None

    # The end

    async def set_paused(self, paused: bool) -> None:
        """Stop until resumed, also over restarts; or go on."""
        self.job = attrs.evolve(self.job, paused=paused)
        intake = self._intake
        if intake is None:
            job = self.job
            await self._house.in_thread(lambda: self._house.store.save_job(job))
        else:
            if paused:
                intake.transfer.pause()
            elif not self._keeper.in_trouble:
                intake.transfer.resume(self._house.now())
            await self._save(intake)
        self._show_state()

    def give_up(self) -> None:
        """Cancelled by a person; what came of it is removed."""
        self._end("cancelled", P2PError("the transfer was cancelled"))

    async def suspend(self) -> None:
        """The daemon stops: keep what came for the next start."""
        if self.ended_at is not None:
            return
        intake = self._intake
        self.ended_at = self._house.now()
        self._asking.stop()
        self._waiters.release(P2PError("the daemon stops; the transfer goes on at its next start"))
        if intake is not None and not self._finishing:
            intake.drop_all()
            held, job = intake.transfer.held.copy(), self.job
            try:
                await self._house.in_thread(lambda: intake.file.save(held, job))
            except StorageError as error:
                log.warn("{file}: {why}", file=escape(self.job.name), why=error.message)
            intake.file.close()

    def _succeed(self, manifest: Manifest) -> None:
        self._size = manifest.size
        self.job = attrs.evolve(self.job, file_id=manifest.file_id)
        sources = self._intake.sources() if self._intake is not None else []
        seconds = round(self._house.now() - self._began, 3)
        log.info(
            "{file}: {size} bytes in {seconds} s from {sources}",
            file=escape(self.job.target), size=manifest.size, seconds=seconds,
            sources=", ".join(f"{escape(each.name)} ({each.bytes})" for each in sources) or "this share",
        )  # fmt: skip
        self._end(
            "done",
            {
                "name": self.job.target,
                "path": self._house.root.path_of(self.job.target),
                "size": manifest.size,
                "id": manifest.file_id,
                "seconds": seconds,
                "sources": [{"name": each.name, "bytes": each.bytes} for each in sources],
            },
        )

    def _fail(self, error: P2PError) -> None:
        log.info("{file}: {why}", file=escape(self.job.name), why=error.message)
        self._end("failed", error)

    def _end(self, state: State, outcome: P2PError | dict[str, Any]) -> None:
        if self.ended_at is not None:
            return
        self.state = state
        self.error = outcome if isinstance(outcome, P2PError) else None
        self.ended_at = self._house.now()
        self._asking.stop()
        if self._intake is not None:
            self._intake.drop_all()
            self._intake.file.close()
        self._spawn(self._discard())
        self._waiters.end(outcome)
        self._house.download_ended(self)

    async def _discard(self) -> None:
        try:
            await self._house.in_thread(lambda: self._house.store.discard(self.id))
        except StorageError as error:
            log.warn("{file}: {why}", file=escape(self.job.name), why=error.message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        def failed(failure: Any) -> None:
            log.failure("transfer of {file}", failure, file=escape(self.job.name))
            self._end("failed", P2PError(f"internal error: {failure.type.__name__}"))

        ensureDeferred(work).addErrback(failed)

    def _note(self, what: str, source: Fetching) -> None:
        if self._house.activity.on:
            self._house.activity.note(what, None, self.job.name, f"from {source.link.name}")
