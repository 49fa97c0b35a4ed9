"""One file coming in: requests in flight, deadlines, endgame. Pure; told what happens and when.

:class:`Transfer` is told of sources, grants, progress and pieces, and speaks to
a :class:`Driver`. It is called by :mod:`p2pd.peer.download` between machines, and by
tests with a list for a driver and numbers for a clock. Times are seconds of any
monotonic clock. It never sleeps: whoever owns it calls :meth:`Transfer.tick`
every :data:`TICK` seconds.
"""

from __future__ import annotations

from collections.abc import Collection

from p2pd.fetch import runs
from p2pd.fetch.driver import Driver
from p2pd.fetch.endgame import Asked, slower
from p2pd.fetch.enough import Enough
from p2pd.fetch.picker import Picker, Run, SourceKey
from p2pd.fetch.sources import Failures, Get, Source
from p2pd.pieces import Bitfield, mask_length, piece_length, range_length, run_mask

TICK = 0.25
STALL = 5.0
"""A source that was given a request and sends nothing for this long loses it."""
GRANTS = 3
"""Grants kept open at a source: one being served, one named behind it, one on its way."""
LONG_PIECE = 1024 * 1024
"""Of a source whose rate is not known longer pieces are asked for one at a time."""
MAX_DUPLICATE = 16 * 1024 * 1024
"""Pieces up to this long are asked of a second source in the endgame, and wait in memory; longer
ones are taken away from the slow source."""


class Transfer:
    """The pieces of one file, from all sources at once, each piece whole from one of them.

    ``size`` and ``piece_size`` in bytes; ``held`` is kept up to date.
    """

    def __init__(self, size: int, piece_size: int, held: Bitfield, driver: Driver, *, seed: str = "") -> None:
        self._size = size
        self._piece_size = piece_size
        self._driver = driver
        self._picker = Picker(held, seed)
        self.sources: dict[SourceKey, Source] = {}
        self._asked = Asked()
        self._writing: dict[int, Source] = {}
        self._failures = Failures()
        self.first = Bitfield(held.count)
        """The pieces that came of a complete holder."""
        self.paused = False
        self._news = 0.0
        """When a source that is not to be spared sent or announced something, or came."""
        self._passed_on = True
        self._enough = Enough(seed)

    def among(self, peers: int) -> None:
        """So many peers may be on the file, as far as is known."""
        self._enough.requests = runs.long_at_once(self.held.count, peers)

    @property
    def long_at_once(self) -> int:
        """Of long pieces so many are to be under way at once."""
        return self._enough.requests

    @property
    def held(self) -> Bitfield:
        """The pieces that are verified and written."""
        return self._picker.held

    @property
    def done(self) -> bool:
        """True once every piece is held."""
        return self.held.complete

    @property
    def arrived(self) -> bool:
        """True once every piece is held or being written."""
        return not self._picker.missing and not self._asked

    @property
    def bytes_held(self) -> int:
        """Verified bytes, what was here before included."""
        return mask_length(self.held.mask, self._size, self._piece_size)

    def _length(self, piece: int) -> int:
        return piece_length(piece, self._size, self._piece_size)

    @property
    def live(self) -> int:
        """How many sources do not hang, and have something that is not held yet."""
        missing = run_mask(0, self.held.count) & ~self.held.mask
        sources = [each for each in self.sources.values() if not (each.stalled or each.resting)]
        return sum(1 for each in sources if each.gets or not missing or self._picker.have(each.key) & missing)

    @property
    def picker(self) -> Picker:
        """For those who look on: what is wanted, and who has it."""
        return self._picker

    # Sources come and go

    def add_source(
        self, key: SourceKey, order: str, have: Bitfield | None, now: float, *,
        careful: bool = False, spare: bool = False,
    ) -> None:  # fmt: skip
        """A source to fetch from; ``order`` ranks it (its peer id), ``have`` None: it holds all.

        ``careful``: it sent wrong data before, and gets one piece at a time until one is right.
        ``spare``: as long as others send, it is to give only what nobody was given yet.
        """
        self._picker.add_source(key, order, have)
        source = Source(key, order, heard=now, careful=careful, spare=spare)
        source.resting = now < self._failures.rests_until(order)
        self.sources[key] = source
        self._news = now
        self._wake(now)
        if source.idle and not self._picker.complete(key) and self._usable(source):
            # What comes to it, it may give us before it says that it has it.
            source.idle = False
            self._want(source, self._wanted(source))

    def remove_source(self, key: SourceKey, now: float) -> None:
        """The source left, died or was dropped: its unfinished pieces are asked for elsewhere."""
        source = self.sources.pop(key, None)
        if source is None:
            return
        self._picker.remove_source(key)
        if source.gets:
            self._failures.failed(source.order, now)
        for get in list(source.gets.values()):
            self._release(source, get)
        self._wake(now)

    def source_has(self, key: SourceKey, mask: int, now: float) -> None:
        """A partial source announces further pieces. IndexError for one out of range."""
        source = self.sources.get(key)
        if source is not None:
            if self._picker.source_has(key, mask):
                self._heard_of(source, now)
            self._wake_one(source, now)

    def pause(self) -> None:
        """Ask for nothing more and cancel what is under way."""
        self.paused = True
        for source in self.sources.values():
            self._cancel_all(source)
            if not source.idle or source.stalled:
                # Of one that hangs the `want` of before still stands.
                source.idle, source.stalled = True, False
                self._driver.want(source.key, 0, 0, False)

    def resume(self, now: float) -> None:
        """Go on after :meth:`pause`."""
        self.paused = False
        self._wake(now)

    def set_aside(self, keys: Collection[SourceKey], now: float) -> None:
        """Ask nothing more of these, and the others again; what was asked for still comes."""
        for source in self.sources.values():
            source.aside = source.key in keys
        self._wake(now)

    # Sources speak

    def granted(self, key: SourceKey, grant: int, limit: int, now: float, named: Run | None = None) -> bool:
        """The source has a slot for up to ``limit`` bytes: pieces are named by ``get``.

        ``named``: the slot is for these pieces only. False: there is nothing to ask for; unless it
        was about certain pieces, the source is told `want` again when there is.
        """
        source = self.sources.get(key)
        if source is None or self.done:
            return False
        if self.paused or source.resting or source.aside or source.full:
            source.idle = True
            return False
        if source.stalled:
            source.stalled = source.idle = False  # it speaks again, and its `want` still stands there
        if named is None:
            run = self._picker.take(key, self._run_length(source, limit))
        else:
            run = self._picker.take_named(key, named, self._pieces(source, runs.named(source), limit))
        duplicate = False
        if run is None:
            among = named.mask if named is not None else -1
            piece = self._slowest_piece(source, now, among, limit)
            if piece is None:
                if named is None:
                    source.idle = True
                else:
                    source.spurned |= named.mask & run_mask(0, self.held.count)
                return False
            if self._length(piece) > MAX_DUPLICATE:
                # Too long to wait in memory for a second copy: it is taken from the slow one.
                self._take_away(piece)
                self._asked.taken(piece)
                run = self._picker.take(key, 1)
            else:
                self._make_room(piece, now)
                run, duplicate = Run(piece, piece + 1), True
        if run is None:
            return False
        if not source.gets:
            source.heard = now
            source.restart_window(now)
        length = range_length(run.first, run.end, self._size, self._piece_size)
        get = Get(grant, run, length, length, set(range(run.first, run.end)), duplicate, now)
        source.gets[grant] = get
        self._asked.add(source, get)
        self._driver.get(key, grant, run, duplicate)
        return True

    def puts_off(self, key: SourceKey, now: float) -> bool:
        """True where a grant that it need not give waits for the next `want`: enough is on its way."""
        source = self.sources.get(key)
        if source is None:
            return False
        if source.stalled and not source.gets:
            source.stalled = source.idle = False  # it speaks, as with any grant
        source.heard = source.news = now
        if not self._usable(source) or not self._picker.could_help(key):
            return False
        source.put_off = self._enough.reached(self.sources.values(), now)
        return source.put_off

    def progressed(self, key: SourceKey, grant: int, count: int, now: float) -> None:
        """``count`` bytes came for the grant, wanted or cancelled."""
        source = self.sources.get(key)
        if source is None:
            return
        source.heard = now
        self._heard_of(source, now)
        source.measure(count, now)
        get = source.gets.get(grant)
        if get is not None:
            get.left -= count
        if source.stalled:
            source.stalled = False
            self._wake(now)

    def piece_arrived(self, key: SourceKey, grant: int, piece: int, right: bool, now: float) -> bool:
        """A whole piece came and was hashed. True where it is right, was missing, and is to be written.

        Then :meth:`piece_written` or :meth:`piece_lost` follows, also if the source is gone by
        then. A wrong one costs the source its place: it is removed and blamed.
        """
        source = self.sources.get(key)
        get = source.gets.get(grant) if source is not None else None
        if source is None or get is None or piece not in get.pending:
            return False
        if not right:
            self._driver.blame(key, piece)
            self.remove_source(key, now)
            return False
        get.pending.discard(piece)
        self._asked.forget(piece, get)
        self._asked.came(piece)
        self._failures.served(source.order)
        new = piece not in self.held and piece not in self._writing
        if new:
            source.whole = self._picker.complete(key)
            self._writing[piece] = source
            source.writing += 1
        if piece in self._asked:
            self._take_away(piece)  # endgame: whoever was second is told to stop
            self._wake(now)
        if not get.pending:
            del source.gets[grant]
            self._enough.came(get, now)
            self._wake_one(source, now)
            self._recall(now)
        if source.careful:
            source.careful = False
            self._driver.trust(key)
            if not source.idle:
                self._want(source, self._wanted(source))
            self._wake(now)
        if new and not source.proved:
            source.proved = True
            if self._piece_size > LONG_PIECE and not source.idle:
                self._want(source, GRANTS)
        return new

    def piece_written(self, piece: int) -> None:
        """A piece that arrived is in the file now: it is held, and counts for its source."""
        source = self._writing.pop(piece)
        source.writing -= 1
        if self._picker.got(piece):
            source.bytes += self._length(piece)
            if source.whole:
                self.first.add(piece)

    def piece_lost(self, piece: int, now: float) -> None:
        """A piece that arrived could not be written: it is missing again."""
        self._writing.pop(piece).writing -= 1
        self._picker.give_back(piece)
        self._wake(now)

    def unread(self, key: SourceKey, now: float) -> None:
        """Nothing was read from that source until now, for reasons of our own: it was not silent."""
        if key in self.sources:
            self.sources[key].heard = now

    def ended(self, key: SourceKey, grant: int, now: float) -> None:
        """The source will send nothing more for this grant (`cancelled`)."""
        source = self.sources.get(key)
        if source is None:
            return
        source.stalled = False
        get = source.gets.get(grant)
        if get is not None:
            # Not what was cancelled here: it does not want to serve it.
            source.rate = 0.0
            self._release(source, get)
            self._failed(source, now)
        self._wake(now)

    def useless(self, now: float) -> list[SourceKey]:
        """Partial sources that neither sent nor announced anything for long."""
        useless = [source.key for source in self.sources.values() if source.useless(now)]
        return [key for key in useless if not self._picker.complete(key)]

    def _heard_of(self, source: Source, now: float) -> None:
        source.news = now
        if not source.spare:
            self._news = now
            self._passed_on = True

    def tick(self, now: float) -> None:
        """Look at deadlines; to be called every :data:`TICK` seconds."""
        if now - self._news > STALL:
            self._passed_on = False  # nobody passes anything on: take it where it is
        for source in self.sources.values():
            if source.sparing != (source.spare and self._passed_on) and not source.idle:
                self._want(source, self._wanted(source))
        for source in list(self.sources.values()):
            if source.resting:
                source.resting = now < self._failures.rests_until(source.order)
            elif source.gets and not source.stalled and now - source.heard > STALL:
                source.stalled = source.idle = True
                source.rate = 0.0
                sent = any(get.left < get.length for get in source.gets.values())
                self._cancel_all(source)
                if not sent:
                    self._failed(source, now)
            elif (
                not (source.idle or source.put_off)
                and not source.gets
                and now - source.heard > STALL
                and self._picker.could_help(source.key)
            ):
                # It was told `want` and gives nothing: no source for now. Lest it was lost, say it again.
                source.stalled = True
                source.heard = now
                self._want(source, self._wanted(source))
        self._enough.reached(self.sources.values(), now)  # it is to know their best rate
        self._recall(now)
        self._wake(now)

    # Inside

    def _failed(self, source: Source, now: float) -> None:
        self._failures.failed(source.order, now)
        if now < self._failures.rests_until(source.order):
            source.resting = True
            self._cancel_all(source)
            source.idle, source.stalled = True, False
            self._driver.want(source.key, 0, 0, False)

    def _cancel_all(self, source: Source) -> None:
        for get in list(source.gets.values()):
            self._driver.cancel(source.key, get.grant)
            self._release(source, get)

    def _take_away(self, piece: int) -> None:
        for other, get in self._asked.of(piece):
            self._driver.cancel(other.key, get.grant)
            self._release(other, get)

    def _recall(self, now: float) -> None:
        put_off = [each for each in self.sources.values() if each.put_off and self._usable(each)]
        if not put_off or self._enough.reached(self.sources.values(), now):
            return
        for source in self._enough.recalled(put_off):
            source.heard = now
            self._want(source, self._wanted(source))

    def _wanted(self, source: Source) -> int:
        """Grants to keep open: a source that has not shown its rate gets one long piece, not several."""
        return GRANTS if not source.careful and (source.rate or self._piece_size <= LONG_PIECE) else 1

    def _release(self, source: Source, get: Get) -> None:
        source.gets.pop(get.grant, None)
        for piece in get.pending:
            self._asked.forget(piece, get)
            if piece not in self._asked and piece not in self._writing:
                self._picker.give_back(piece)
        get.pending.clear()

    def _want(self, source: Source, count: int) -> None:
        source.sparing, source.spurned = source.spare and self._passed_on, 0
        source.put_off = False
        self._driver.want(source.key, count, self._picker.place(source.key), source.sparing)

    def _wake(self, now: float) -> None:
        """Sources that had nothing to do are asked again where they can help now."""
        if self.arrived:
            return
        late = () if self._picker.missing else self._asked.late(now)
        for source in list(self.sources.values()):
            self._wake_one(source, now, late)

    def _usable(self, source: Source) -> bool:
        return not (source.stalled or source.resting or source.aside or self.paused or self.done)

    def _wake_one(self, source: Source, now: float, late: Collection[int] | None = None) -> None:
        if not self._usable(source):
            return
        # Of one that names pieces itself, those that were declined: something may have become of them.
        among = -1 if source.idle else source.spurned
        if not among or source.full:
            return
        if not source.idle and not self._picker.missing:
            among &= self._asked.long_ago(now)
        if (
            self._picker.could_help(source.key, among)
            or self._slowest_piece(source, now, among, late=late) is not None
        ):
            source.idle = False
            if not source.gets:
                source.heard = now
            self._want(source, self._wanted(source))

    def _run_length(self, source: Source, limit: int) -> int:
        """How many pieces to ask for at once."""
        among, swarm = self.sources.values(), self._picker.swarm
        missing = self._picker.missing * self._piece_size
        wanted = runs.chosen(source, among, self.held, self._size, missing=missing, swarm=swarm)
        return self._pieces(source, wanted, limit)

    def _pieces(self, source: Source, wanted: int, limit: int) -> int:
        most = min(wanted, limit, runs.MAX_RUN)
        return 1 if source.careful else max(1, most // self._piece_size)

    def _slowest_piece(
        self, source: Source, now: float, among: int = -1, limit: int | None = None,
        late: Collection[int] | None = None,
    ) -> int | None:  # fmt: skip
        """Endgame: of ``among``, up to ``limit`` bytes, the piece that ``source`` brings sooner by most."""
        if self._picker.missing:
            return None
        has = self._picker.have(source.key) & among

        def could(piece: int) -> bool:
            return bool(has >> piece & 1) and (limit is None or self._length(piece) <= limit)

        return self._asked.slowest(source, self.sources.values(), could, self._length, now, late=late)

    def _make_room(self, piece: int, now: float) -> None:
        """Two at once are enough for a piece: the slower of two is put aside for a third."""
        entries = self._asked.of(piece)
        if len(entries) > 1:
            other, get = slower(entries, now)
            self._driver.cancel(other.key, get.grant)
            self._release(other, get)
