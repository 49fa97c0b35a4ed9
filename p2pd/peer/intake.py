"""The bytes of one file coming in: a transfer's decisions carried out on conversations and on the disk.

Stands between :class:`~p2pd.fetch.transfer.Transfer`, which decides, and the
conversations (:class:`~p2pd.peer.fetching.Fetching`), which speak.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

from p2pd.errors import StorageError
from p2pd.fetch.held_up import Account
from p2pd.fetch.picker import Run, SourceKey
from p2pd.fetch.probing import OwnLink
from p2pd.fetch.sources import Source
from p2pd.fetch.transfer import Transfer
from p2pd.model import FileId, Manifest, PeerId, PeerInfo
from p2pd.peer.activity import Activity
from p2pd.peer.fetching import Fetching
from p2pd.peer.receiving import BufferPool, RangeSink
from p2pd.peer.stock import Part, Stock
from p2pd.pieces import Bitfield, run_mask
from p2pd.share.partial import PartialFile
from p2pd.share.writing import Writer
from p2pd.status import Bound, HeldUp, SourceStatus
from p2pd.text import escape

log = Logger("p2pd.peer")


class Owner(Protocol):
    """Whose file it is: the download. Called on the reactor thread."""

    def untrusted(self, source: Fetching) -> float:
        """It sent a wrong piece, or broke the protocol; gives the seconds for which it is not used."""

    def trusted(self, source: Fetching) -> None:
        """It was used with care, and sent a right piece."""

    def source_gone(self, source: Fetching) -> None:
        """It does not serve this content any more."""

    def storage_failed(self, error: StorageError) -> None:
        """A write failed."""

    def complete(self) -> None:
        """The last piece is held."""


class Intake:
    """See the module. Sources are told apart by their conversation, counted by their peer.

    ``name``: as it is asked for; ``target``: as it will be called here, under which what has
    come is served; ``seed``: of the order in which equally rare pieces are asked for.
    """

    def __init__(
        self,
        owner: Owner,
        *,
        name: str,
        manifest: Manifest,
        held: Bitfield,
        file: PartialFile,
        now: Callable[[], float],
        activity: Activity,
        pool: BufferPool,
        writer: Writer,
        stock: Stock,
        link: OwnLink,
        target: str,
        seed: str,
    ) -> None:
        self._owner = owner
        self._name = name
        self.manifest = manifest
        self.file_id: FileId = manifest.file_id
        self.file = file
        self._now = now
        self._activity = activity
        self._pool = pool
        self._writer = writer
        self.transfer = Transfer(manifest.size, manifest.piece_size, held, self, seed=seed)
        self.account = Account(self.transfer, manifest.size, manifest.piece_size, link, now)
        self._stock = stock
        self.part = Part(
            target, manifest, held, self.transfer.first, lambda: self.file.fd,
            lambda: self.transfer.long_at_once,
        )  # fmt: skip
        stock.begin(self.part)
        self._reached: dict[SourceKey, tuple[Fetching, PeerInfo]] = {}
        self._gained = 0  # pieces of which nobody was told yet
        self._spoiled: set[int] = set()
        """Pieces of which some step could not be written since they were asked for."""
        self._left: list[tuple[Source, PeerInfo]] = []
        """Those who brought something and are not reached any more."""

    def add(
        self, source: Fetching, info: PeerInfo, have: Bitfield | None, *,
        careful: bool = False, spare: bool = False,
    ) -> None:  # fmt: skip
        """A source with the pieces of ``have`` (None: all); ``careful``: it sent wrong data before;
        ``spare``: others pass on what it gave them.
        """  # fmt: skip
        key = id(source)
        if have is not None and have.count != self.manifest.count:
            return  # of another content
        if key in self._reached:
            # What it has now: more than when it offered before.
            mask = have.mask if have is not None else run_mask(0, self.manifest.count)
            self.transfer.source_has(key, mask, self._now())
        elif not source.ended:
            self._reached[key] = (source, info)
            source.follow(self.file_id, self)
            self.transfer.add_source(key, info.id, have, self._now(), careful=careful, spare=spare)
            self._stock.catch_up(source.link, self.file_id)

    def drop(self, source: Fetching) -> None:
        """It left, or is not to be used any more; what it brought is counted on."""
        key = id(source)
        if key in self._reached:
            self._count(key)
            del self._reached[key]
            source.leave(self.file_id, self)
            self.transfer.remove_source(key, self._now())

    def drop_all(self) -> None:
        """Nothing more is wanted of anybody."""
        self._stock.announce(self.part)  # while they are known
        for source, _ in list(self._reached.values()):
            self.drop(source)

    def _count(self, key: SourceKey) -> None:
        source = self.transfer.sources[key]
        if source.bytes or source.writing:
            self._left.append((source, self._reached[key][1]))

    @property
    def live(self) -> int:
        """How many sources there are that do not hang, and have what is missing."""
        return self.transfer.live

    def infos(self) -> list[PeerInfo]:
        """The sources, by name."""
        return sorted((info for _, info in self._reached.values()), key=lambda info: info.name)

    def sources(self) -> list[SourceStatus]:
        """Verified bytes by peer, those who left included."""
        found: dict[PeerId, SourceStatus] = {}
        reached = [(self.transfer.sources[key], info) for key, (_, info) in self._reached.items()]
        for source, info in [*self._left, *reached]:
            before = found[info.id].bytes if info.id in found else 0
            if before + source.bytes or source.key in self._reached:
                rate = source.rate if source.gets else 0.0
                found[info.id] = SourceStatus(info.name, before + source.bytes, rate)
        return sorted(found.values(), key=lambda each: each.name)

    def why_slow(self) -> tuple[HeldUp, Bound | None]:
        """What it waited for, and how near to its bound it came."""
        return self.account.seconds, self.account.bound

    def useless(self, now: float) -> list[Fetching]:
        """Those who had nothing new for long."""
        return [self._reached[key][0] for key in self.transfer.useless(now) if key in self._reached]

    # The Driver of the transfer

    def want(self, source: SourceKey, count: int, place: int, once: bool) -> None:
        """Part of :class:`~p2pd.fetch.transfer.Driver`."""
        reached = self._reached[source][0]
        if not reached.ended:
            self._stock.catch_up(reached.link, self.file_id)
            reached.want(self.file_id, self, count, place, once)

    def get(self, source: SourceKey, grant: int, run: Run, duplicate: bool) -> None:
        """Part of :class:`~p2pd.fetch.transfer.Driver`."""
        reached, info = self._reached[source]
        sink = RangeSink(
            grant, run, manifest=self.manifest, listener=_Carrier(self, source), pool=self._pool,
            whole=duplicate,
        )  # fmt: skip
        self._note("asked for", run, info)
        self._spoiled.difference_update(run)
        self._stock.catch_up(reached.link, self.file_id)
        reached.get(sink, self)

    def cancel(self, source: SourceKey, grant: int) -> None:
        """Part of :class:`~p2pd.fetch.transfer.Driver`."""
        if source in self._reached:
            self._reached[source][0].cancel(grant)

    def blame(self, source: SourceKey, piece: int) -> None:
        """Part of :class:`~p2pd.fetch.transfer.Driver`; the right pieces that it sent before count on."""
        self._count(source)
        reached, info = self._reached.pop(source)
        reached.leave(self.file_id, self)
        log.warn(
            "{name} sent a wrong piece {piece} of {file}: not used for it for {seconds:.0f} s",
            name=escape(info.name), piece=piece, file=escape(self._name),
            seconds=self._owner.untrusted(reached),
        )  # fmt: skip

    def trust(self, source: SourceKey) -> None:
        """Part of :class:`~p2pd.fetch.transfer.Driver`."""
        self._owner.trusted(self._reached[source][0])

    # The Taker of the conversations

    def granted(self, source: Fetching, grant: int, limit: int, named: Run | None) -> bool:
        """Part of :class:`~p2pd.peer.fetching.Taker`."""
        key = id(source)
        return key in self._reached and self.transfer.granted(key, grant, limit, self._now(), named)

    def puts_off(self, source: Fetching) -> bool:
        """Part of :class:`~p2pd.peer.fetching.Taker`."""
        return id(source) in self._reached and self.transfer.puts_off(id(source), self._now())

    def has(self, source: Fetching, mask: int) -> None:
        """Part of :class:`~p2pd.peer.fetching.Taker`."""
        self.transfer.source_has(id(source), mask, self._now())

    def cancelled(self, source: Fetching, grant: int) -> None:
        """Part of :class:`~p2pd.peer.fetching.Taker`."""
        self.transfer.ended(id(source), grant, self._now())

    def gone(self, source: Fetching, why: str) -> None:
        """Part of :class:`~p2pd.peer.fetching.Taker`."""
        log.info("{name}: {file}: {why}", name=source.link.name, file=escape(self._name), why=escape(why))
        self.drop(source)
        self._owner.source_gone(source)

    def misbehaved(self, source: Fetching) -> None:
        """Part of :class:`~p2pd.peer.fetching.Taker`."""
        self.drop(source)
        self._owner.untrusted(source)

    # What sinks tell, by way of their carrier

    def progressed(self, key: SourceKey, grant: int, count: int) -> None:
        """``count`` bytes came from that source."""
        self.transfer.progressed(key, grant, count, self._now())

    def piece(self, key: SourceKey, sink: RangeSink, piece: int, right: bool) -> bool:
        """A whole piece came. True where it is to be written."""
        info = self._reached[key][1] if key in self._reached else None
        new = self.transfer.piece_arrived(key, sink.grant, piece, right, self._now())
        if right and sink.finished and info is not None:
            self._note("received", sink.run, info)
        return new

    def write(
        self, key: SourceKey, offset: int, data: memoryview, pieces: tuple[int, ...],
        release: Callable[[], None],
    ) -> None:  # fmt: skip
        """Write behind; with too much waiting, that source is not read for a while."""

        size = self.manifest.piece_size
        touched = range(offset // size, (offset + len(data) - 1) // size + 1)

        def written(error: StorageError | None) -> None:
            release()
            if error is not None:
                # Of a long piece this may be one step, and its last one may be written all the same.
                self._spoiled.update(touched)
            for piece in pieces:
                if piece in self._spoiled:
                    self.transfer.piece_lost(piece, self._now())
                else:
                    self.transfer.piece_written(piece)
                    self._gained += 1
                    self._writer.when_told(self._tell_stock)
            if error is not None:
                self._owner.storage_failed(error)
            elif self.transfer.done:
                self._owner.complete()

        self._writer.write(self.file, offset, data, written)
        if self.transfer.arrived:
            self._writer.flush()
        if self._writer.full and key in self._reached:
            self._writer.hold_while_full(self._reached[key][0].link)
            self._writer.hold_while_full(self.account)

    def _tell_stock(self) -> None:
        gained, self._gained = self._gained, 0
        self._stock.gained(self.part, gained)

    def eager(self, sink: RangeSink) -> bool:
        """True where the disk has nothing to do; what waits for that is written then."""
        if not self._writer.idle:
            self._writer.when_idle(sink.flush)
        return self._writer.idle

    def tick(self, now: float, peers: int) -> None:
        """Look at what is due; so many ``peers`` may be on the file."""
        self.transfer.among(peers)
        for key, (source, _) in self._reached.items():
            if source.link.unread:
                self.transfer.unread(key, now)
        self.account.tick(now)
        self.transfer.tick(now)

    def close(self, *, done: bool = False) -> None:
        """Close the file, once what is being written is; ``done``: it is a file of the share now."""
        self.account.ended(self._now())
        self._stock.end(self.part, done=done)
        self._writer.after(self.file.close)

    def _note(self, what: str, run: Run, info: PeerInfo) -> None:
        if self._activity.on:
            self._activity.note(what, run, self._name, f"from {escape(info.name)}")


class _Carrier:
    """Carries a sink's events to its intake, with the source's key."""

    def __init__(self, intake: Intake, key: SourceKey) -> None:
        self._intake = intake
        self._key = key

    def sink_progressed(self, sink: RangeSink, count: int) -> None:
        self._intake.progressed(self._key, sink.grant, count)

    def sink_piece(self, sink: RangeSink, piece: int, right: bool) -> bool:
        return self._intake.piece(self._key, sink, piece, right)

    def sink_write(
        self, offset: int, data: memoryview, pieces: tuple[int, ...], release: Callable[[], None]
    ) -> None:
        self._intake.write(self._key, offset, data, pieces, release)

    def sink_eager(self, sink: RangeSink) -> bool:
        return self._intake.eager(sink)
