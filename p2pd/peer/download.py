"""One file coming in, from the `req` to its name in the share.

ask -> offers -> choose -> manifest -> partial file -> pieces -> verified -> durable -> listed.
Who is asked is :class:`~p2pd.peer.asking.Asking`'s business, what their answers mean
:class:`~p2pd.peer.offers.Offers`', the bytes :class:`~p2pd.peer.intake.Intake`'s.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import attrs
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger

from p2pd.errors import ConflictError, NoSourcesError, P2PError, StorageError
from p2pd.model import Manifest, Offer
from p2pd.peer.choosing import peer_of
from p2pd.peer.fetching import Fetching
from p2pd.peer.finishing import finish, report
from p2pd.peer.household import Household
from p2pd.peer.intake import Intake
from p2pd.peer.keeping import Keeper
from p2pd.peer.seeking import Seeking, why_waiting
from p2pd.peer.waiting import Emit, Waiter, Waiters, fired
from p2pd.pieces import Bitfield
from p2pd.share.disk import check_room
from p2pd.share.hashing import Cancelled
from p2pd.share.partial import Job
from p2pd.status import Banned, State, TransferStatus
from p2pd.text import escape

log = Logger("p2pd.peer")


class Download:
    """See the module. ``state`` is one of those of docs/cli.md.

    A ``resumed`` one was there before the daemon's start: its content is
    chosen, and it waits for its sources however long that takes.
    """

    def __init__(
        self,
        house: Household,
        job: Job,
        *,
        resumed: bool = False,
        held: tuple[Manifest, Bitfield] | None = None,
    ) -> None:
        self._house = house
        self.job = job
        self.id = job.transfer
        self._end_state: State | None = None
        self.error: P2PError | None = None
        self.ended_at: float | None = None
        self._resumed = resumed
        self._began = house.now()
        settled = resumed and job.file_id is not None
        self._seeking = Seeking(self, house, job, settled=settled, patient=resumed, note=self._note)
        self._settled = settled
        self._started = False
        self._intake: Intake | None = None
        self._unopened = held
        """What is to be opened, and the pieces that it is said to hold: hashed then."""
        self._size: int | None = job.size
        self._waiters = Waiters()
        self._checking = False
        self._finishing = False
        self._given_up = False
        self._finished: Deferred[None] = Deferred()
        self._discarded: Deferred[None] = Deferred()
        self._keeper = Keeper(house)
        self._sourceless_since = self._began

    @property
    def over(self) -> bool:
        """Part of :class:`~p2pd.peer.seeking.Seeker`."""
        return self.ended_at is not None

    # Life

    async def start(self) -> None:
        """Make the job durable, if the disk lets us, and begin. ConflictError, RefusedError."""
        if self.over:
            return
        here = not self._settled and await self._seeking.look_here()
        if self.over:
            return  # here already, or cancelled meanwhile: nothing is to be kept
        await self._keeper.begin(self.job, durable=here or self._settled or self._resumed)
        if self._unopened is not None:
            await self._open()
        self._started = True
        self.tick(self._house.now())

    async def _open(self) -> None:
        """The partial file, and what of it is held: that is hashed again. Trouble leaves it unopened."""
        assert self._unopened is not None
        manifest, held = self._unopened
        house, job = self._house, self.job
        self._size = manifest.size
        self._checking = bool(len(held))
        try:
            file = await house.in_thread(lambda: house.store.begin(job, manifest))
            if len(held):
                named = held
                held = await house.in_thread(lambda: file.rehash(named, lambda: self.ended_at is not None))
        except StorageError as error:
            # What could not be noted at all would be forgotten by a restart: then it is not taken on.
            (self.storage_failed if self._keeper.durable else self.fail)(error)
            return
        except Cancelled:
            file.close()
            return
        finally:
            self._checking = False
        if self.ended_at is not None:
            file.close()
            return
        self._unopened = None
        self._intake = Intake(
            self, name=self.job.name, manifest=manifest, held=held, file=file,
            now=house.now, activity=house.activity, pool=house.pool, writer=house.writer,
            stock=house.stock, link=house.link, target=self.job.target,
            seed=f"{house.label} {manifest.file_id}",
        )  # fmt: skip
        self._keeper.loaded(len(held))
        if self.job.paused:
            self._intake.transfer.pause()
        for source, offer, have in self._seeking.choose(manifest):
            self.usable(source, offer, have)
        self.complete()

    def tick(self, now: float) -> None:
        """Look at what is due; called every :data:`p2pd.fetch.transfer.TICK` seconds, and more often."""
        if self.ended_at is not None or not self._started:
            return
        self._seeking.tick(now, asking=not self.job.paused)
        intake = self._intake
        if intake is not None:
            intake.tick(now, self._seeking.peers)
            self._waiters.measure(intake.transfer.bytes_held, now)
        self.complete()
        if intake is None and not self.job.paused:
            # A holder may have offered anew what it once took back.
            self._use_offers()
        if not self.job.paused and self._keeper.try_now(now):
            self.spawn(self._try_storage())
        self._watch_sources(now)
        if intake is not None and not self._finishing and self._keeper.due(intake, now):
            self.spawn(self._save(intake))
        if intake is not None:
            self._waiters.progress(intake, now)

    @property
    def state(self) -> State:
        """One of those of docs/cli.md."""
        intake = self._intake
        if self._end_state is not None:
            return self._end_state
        if self._finishing or self._checking:
            return "verifying"
        if self.job.paused:
            return "paused"
        if intake is not None:
            return "running" if intake.live and not intake.transfer.paused else "waiting"
        return "hashing" if self._seeking.hashing_somewhere else "waiting"

    # What seeking tells

    def usable(self, source: Fetching, offer: Offer, have: Bitfield | None) -> None:
        """Part of :class:`~p2pd.peer.seeking.Seeker`."""
        if self._intake is not None:
            if offer.file_id == self._intake.file_id:
                info = peer_of(source)
                self._intake.add(
                    source, info, have, careful=self._seeking.bans.careful(info.id),
                    spare=self._house.sparing(info.id),
                )  # fmt: skip
        elif self._unopened is None and not self._seeking.listing and not self._keeper.in_trouble:
            self.spawn(self._begin())

    async def _begin(self) -> None:
        """The first offer: its manifest from any holder, then the partial file."""
        manifest = await self._seeking.manifest()
        if manifest is not None and self.ended_at is None:
            self.job = attrs.evolve(
                self.job, file_id=manifest.file_id, size=manifest.size, piece_size=manifest.piece_size
            )
            self._unopened = (manifest, Bitfield(manifest.count))
            await self._open()
            self._waiters.note_name(self.job.target)

    def here_already(self, manifest: Manifest) -> None:
        """Part of :class:`~p2pd.peer.seeking.Seeker`."""
        self._succeed(manifest)

    def sought_in_vain(self, error: P2PError) -> None:
        """Part of :class:`~p2pd.peer.seeking.Seeker`."""
        self.fail(error)

    def nobody_yet(self, error: P2PError) -> None:
        """Part of :class:`~p2pd.peer.seeking.Seeker`."""
        self._waiters.release(error)

    def _use_offers(self) -> None:
        for offering in self._seeking.offering():
            if offering[1].file_id == self.job.file_id or self.job.file_id is None:
                self.usable(*offering)

    def offers_closed(self) -> None:
        """Part of :class:`~p2pd.peer.seeking.Seeker`."""
        self.complete()

    def source_left(self, source: Fetching) -> None:
        """Part of :class:`~p2pd.peer.seeking.Seeker`."""
        if self._intake is not None:
            self._intake.drop(source)

    def useless(self, now: float) -> list[Fetching]:
        """Part of :class:`~p2pd.peer.seeking.Seeker`."""
        return self._intake.useless(now) if self._intake is not None else []

    def untrusted(self, source: Fetching) -> float:
        """Part of :class:`~p2pd.peer.intake.Owner`."""
        return self._seeking.distrust(source)

    def trusted(self, source: Fetching) -> None:
        """Part of :class:`~p2pd.peer.intake.Owner`."""
        self._seeking.bans.trust(peer_of(source).id)

    def source_gone(self, source: Fetching) -> None:
        """Part of :class:`~p2pd.peer.intake.Owner`."""
        self._seeking.forget(source)

    def _watch_sources(self, now: float) -> None:
        intake = self._intake
        busy = self.job.paused or self._finishing or self._checking or self._keeper.in_trouble
        if (
            busy
            or (intake is not None and intake.live)
            or (intake is None and self._seeking.hashing_somewhere)
        ):
            self._sourceless_since = now
        elif self._intake is not None and self._seeking.others() and now - self._sourceless_since > 1.0:
            # Waiting longer is no use to who asked by name: what is offered now is something else.
            name, variants = escape(self.job.name), self._seeking.others()
            mine: dict[str, Any] = {"id": self.job.file_id, "size": self._size, "holders": []}
            text = f"{name} is offered with another content now: cancel {self.id} to fetch that, or wait"
            self._waiters.release(ConflictError(text, variants=[mine, *variants]))
        elif self._seeking.had_sources:
            why = why_waiting(self._seeking, self._house.now(), begun=True)
            text = f"no source of {escape(self.job.name)} is left{f' ({why})' if why else ''};"
            text += " what came is kept, and it goes on by itself"
            self._waiters.release_late(self._sourceless_since, now, lambda: NoSourcesError(text))

    # The end of the bytes

    def complete(self) -> None:
        """Part of :class:`~p2pd.peer.intake.Owner`; once offers are closed, it may get its name."""
        intake = self._intake
        if intake is None or not intake.transfer.done or self._finishing or self.ended_at is not None:
            return
        if self._keeper.in_trouble or not self._seeking.closed:
            return
        self._waiters.progress(intake, self._house.now())
        self._finishing = True
        intake.account.finishing(self._house.now())
        self.spawn(self._finish(intake))

    async def _finish(self, intake: Intake) -> None:
        self._finished = Deferred()
        intake.drop_all()
        try:
            await finish(self._house, self.job, intake, lambda: self._given_up)
        except StorageError as error:
            # Nobody knows what of it is on the disk until it is read.
            self._finishing = False
            self._unopened, self._intake = (intake.manifest, intake.transfer.held), None
            intake.close()
            self.storage_failed(error)
        except Cancelled:
            self._finishing = False
        except P2PError as error:
            self.fail(error)
        else:
            self._succeed(intake.manifest)
        finally:
            self._finished.callback(None)

    # Storage

    def storage_failed(self, error: StorageError) -> None:
        """Part of :class:`~p2pd.peer.intake.Owner`: rest, say so, try again later."""
        if self.ended_at is not None or self._keeper.in_trouble:
            return
        self.error = error
        log.warn("{file}: {why}", file=escape(self.job.name), why=escape(error.message))
        if self._intake is not None:
            self._intake.transfer.pause()
        self._keeper.failed(self._house.now())
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
        if self._unopened is not None:
            await self._open()
        elif intake is not None and not self.job.paused:
            intake.transfer.resume(self._house.now())
        else:
            self._use_offers()

    async def _save(self, intake: Intake) -> None:
        try:
            await self._keeper.write(intake, self.job)
        except StorageError as error:
            if not self._finishing:
                self.storage_failed(error)

    # Who waits for it, and who looks at it

    def wait(self, emit: Emit, timeout: float) -> Waiter:
        """A client waits; it leaves by :meth:`leave`."""
        waiter = self._waiters.add(emit, timeout, self._house.now())
        if self._keeper.in_trouble and self.error is not None:
            self._waiters.release(self.error)
        return waiter

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
            self.error.message if self.error is not None else self._why(),
            tuple(Banned(info.name, left) for info, left in self._seeking.bans.standing(self._house.now()))
            if self.ended_at is None else (),
            *(intake.why_slow() if intake is not None else ()),
        )  # fmt: skip

    def _why(self) -> str | None:
        """What a transfer that waits is waiting for, where that is worth a sentence."""
        if self.state != "waiting":
            return None
        return why_waiting(self._seeking, self._house.now(), begun=self._intake is not None)

    @property
    def pieces(self) -> tuple[Manifest, Bitfield] | None:
        """What is held of it so far."""
        intake = self._intake
        return (intake.manifest, intake.transfer.held) if intake is not None else None

    # The end

    async def promise(self) -> None:
        """Return once it would survive a kill; StorageError."""
        await self._keeper.promise(self.job)

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

    async def give_up(self) -> None:
        """Cancelled by a person; returns when what came of it is removed. P2PError where it was just done."""
        if self._finishing:
            self._given_up = True
            await fired(self._finished)
        if self.state == "done":
            raise P2PError(f"{escape(self.job.target)} was complete before it could be cancelled")
        self._end("cancelled", P2PError("the transfer was cancelled"))
        await fired(self._discarded)

    async def suspend(self) -> None:
        """The daemon stops: keep what came for the next start."""
        if self.ended_at is not None:
            return
        if self._finishing:
            self._given_up = True
            await fired(self._finished)
            if self.over:
                return
        intake = self._intake
        self.ended_at = self._house.now()
        self._seeking.stop()
        self._waiters.release(P2PError("the daemon stops; the transfer goes on at its next start"))
        if intake is not None:
            intake.drop_all()
            held, job = intake.transfer.held.copy(), self.job
            try:
                await self._house.in_thread(lambda: intake.file.save(held, job))
            except StorageError as error:
                log.warn("{file}: {why}", file=escape(self.job.name), why=escape(error.message))
            intake.close()

    def _succeed(self, manifest: Manifest) -> None:
        self._size = manifest.size
        self.job = attrs.evolve(self.job, file_id=manifest.file_id)
        seconds = round(self._house.now() - self._began, 3)
        self._end("done", report(self._house, self.job, manifest, self._intake, seconds))

    def fail(self, error: P2PError) -> None:
        """It ends so."""
        log.info("{file}: {why}", file=escape(self.job.name), why=escape(error.message))
        self._end("failed", error)

    def _end(self, state: State, outcome: P2PError | dict[str, Any], keep: bool = False) -> None:
        """``keep``: what came stays for the next start, for a fault of ours."""
        if self.ended_at is not None:
            return
        self._end_state = state
        self.error = outcome if isinstance(outcome, P2PError) else None
        self.ended_at = self._house.now()
        self._seeking.stop()
        if self._intake is not None:
            self._intake.drop_all()
            self._intake.close(done=state == "done")
        if not keep:
            self.spawn(self._discard())
        self._waiters.end(outcome)
        self._house.download_ended(self.id, self.status())

    async def _discard(self) -> None:
        await self._keeper.discard(self.job)
        self._discarded.callback(None)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Part of :class:`~p2pd.peer.seeking.Seeker`."""
        ensureDeferred(work).addErrback(self.broken)

    def broken(self, failure: Any) -> None:
        """By a fault of ours: it ends, and what came stays for the next start."""
        log.failure("transfer of {file}", failure, file=escape(self.job.name))
        self._end("failed", P2PError(f"internal error: {failure.type.__name__}"), keep=True)

    def _note(self, what: str, source: Fetching) -> None:
        if self._house.activity.on:
            self._house.activity.note(what, None, self.job.name, f"from {source.link.name}")
