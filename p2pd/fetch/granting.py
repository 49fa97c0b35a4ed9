"""Whom to serve next, with how much, and what a complete holder hands out. Pure; told what happens and when.

The other side of :mod:`p2pd.fetch.transfer`: a downloader says how many grants it wants,
:class:`Granting` gives them where they help, and says which of the ranges that were named by
them are to be sent now. It speaks to a :class:`GrantingDriver`; times are seconds of any monotonic clock.

With one downloader the grants run ahead, and the wire never waits. With several they are given
in turn, just so many that the link does not idle until they are used: what waits in a queue
cannot be reconsidered. A complete holder then names the pieces itself, every one once before any
twice, by times sent plus times announced; of several complete holders each begins with its share.
Who is not complete names those pieces that came of a complete holder, to each of the others once:
most of them nobody else was given, and so all uplinks have something to do from the start
(Mundinger, Weber, Weiss: Optimal scheduling of peer-to-peer file dissemination, 2008, send like that).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from p2pd.fetch import runs
from p2pd.fetch.clients import Client, ClientKey, FileKey, Open, Stock, long_at_once, usual_delay
from p2pd.fetch.driver import GrantingDriver
from p2pd.fetch.outflow import Outflow
from p2pd.fetch.picker import Run, around
from p2pd.fetch.rarity import Rarity
from p2pd.pieces import Bitfield, highest, lowest, run_mask

ALONE = 4
"""Grants open at once for a file that nobody else wants."""
GRANT_BYTES = 16 * 1024 * 1024
"""Bytes of a grant at most, or one piece."""
ALONE_RUN = 0.1
"""Where nobody else wants any, somebody is expected to use a grant for what goes out in so many seconds."""
FIRST_RUN = 128 * 1024
"""Bytes for which he is expected to use it before our rate is known."""
LEAST = 4
"""Grants open at once before our rate is known."""
MOST_EACH = 2
"""Grants open at once for one of several downloaders."""
FIRST_ROUNDS = 2
"""So often each gets one piece at a time of a complete holder: the sooner he has something to pass on. What
goes into a queue at first looks like a rate, too."""
SLOTS = 4
"""Ranges sent at once to different downloaders;"""
MOST_EACH_LONG = 1
"""fewer of long pieces (see ``at_once``), one to each: each is through sooner. Nor are more granted;"""
FILLED = 0.6
"""but twice as many (of who has all, four again) where they take less than this part of our highest rate."""
LONG_PIECE = 1024 * 1024
"""So long a piece is before our rate is known."""
AHEAD = 0.02
"""Seconds of sending that are granted beyond the time in which a grant is used,"""
BASE_DELAYS = 2.0
"""and so many base delays, the shortest such time: the rate is at most what was granted, and is to grow."""
AHEAD_OF_CHOOSERS = 0.1
"""Where they choose the pieces themselves it is this, of the highest rate seen: that binds no piece."""
LEAST_BURDEN = 2
BURDEN = 8
"""Who wants each piece once has at most so many, and this part of the file, that nobody else has: he
may be the first, and the others a moment late."""
DAWDLES = 1.0
PROMPT = 0.1
DECLINES = 4
"""Unused grants do not count of one that took longer than the first to use its last one, or than the second
(or four times as long as others take to use one) to put it off, or declined more than so many in turn."""


class Granting:
    """See the module. ``seed``: of whom of equals to begin with; None: another one each time.

    ``later`` calls once all that came at the same time was told: where several want some, to go on with each
    message anew costs more. None: at once.
    """

    def __init__(
        self, driver: GrantingDriver, seed: str | None = None, *,
        later: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:  # fmt: skip
        self._driver = driver
        self._later = later
        self._due, self._now = False, 0.0
        self._alone = True  # at most one wants some
        self._random = random.Random(seed)
        self._stocks: dict[FileKey, Stock] = {}
        self._open: dict[int, Open] = {}
        self._waiting: deque[Open] = deque()  # named, and not yet being sent
        self._sending: set[Open] = set()
        self._next = 1
        self.outflow = Outflow()
        self._turnaround = 0.0
        self._base_delay = 0.0
        self._long = False  # the pieces are, see _pieces_are_long
        self._would_idle = True  # unless more is granted our link idles

    @property
    def downloaders(self) -> int:
        """How many want some, of however many files."""
        return len({client.key for client in self._clients() if client.want or client.open})

    # What there is

    def offer(
        self, file: FileKey, count: int, piece_size: int, held: Bitfield | None,
        first: Bitfield | None = None, *, at_once: int = runs.LONG_AT_ONCE,
    ) -> None:  # fmt: skip
        """``file`` of ``count`` pieces of ``piece_size`` bytes may be wanted, ``at_once`` of long ones.

        ``held`` None: all of it; else the pieces held, and ``first`` those that came of a complete holder:
        objects that their owner keeps up to date.
        """
        stock = self._stocks.get(file)
        if stock is None:
            every = run_mask(0, count)
            self._stocks[file] = stock = Stock(file, count, piece_size, held, first, every, Rarity(count))
        stock.held, stock.first, stock.at_once = held, first, at_once

    def knows(self, file: FileKey) -> bool:
        """True while somebody wants some of it."""
        return file in self._stocks

    def gained(self, file: FileKey, now: float) -> None:
        """A partial holder has more pieces."""
        if file in self._stocks:
            self._changed(now)

    # What downloaders say

    def want(
        self, client: ClientKey, file: FileKey, count: int, now: float, *,
        place: int = 0, once: bool = False, quiet: bool = False,
    ) -> None:  # fmt: skip
        """It wants ``count`` grants open. ``place``: the piece at which our share begins for it.

        ``once``: of a complete holder, only pieces that nobody was sent yet. ``quiet``: only what we name.
        """
        stock = self._stocks[file]
        one = stock.clients.get(client)
        if one is None:
            if not count:
                return
            one = self._newcomer(client, stock)
        one.place = place if 0 <= place < max(stock.count, 1) else 0
        stock.once += once - one.once
        one.want, one.once, one.quiet, one.refused, one.later = count, once, quiet, 0, False
        # What was sent, and not announced, may not have done.
        one.given = 0
        for opened in one.open.values():
            if opened.run is not None:
                one.given |= opened.run.mask
        self._changed(now)

    def has(self, client: ClientKey, file: FileKey, mask: int, now: float) -> None:
        """It announces pieces. IndexError for one out of range."""
        stock = self._stocks.get(file)
        one = stock.clients.get(client) if stock is not None else None
        if stock is None:
            return
        if mask >> stock.count:
            raise IndexError(f"piece {highest(mask)} of {stock.count}")
        if one is None:
            one = self._newcomer(client, stock)
        new = mask & ~one.announced
        one.announced |= new
        stock.counts.add(new)
        if stock.once:
            self._changed(now)

    def named(self, grant: int, run: Run, length: int, now: float) -> None:
        """A grant is used for ``length`` bytes, for these pieces."""
        opened = self._open[grant]
        client = opened.client
        if opened.ours and opened.run is not None:
            spared = opened.run.mask & ~run.mask
            client.file.counts.remove(spared)
            client.given &= ~spared
            client.owed &= ~spared
        elif client.file.complete:
            client.file.counts.add(run.mask)
        client.given |= run.mask
        client.owed |= run.mask
        client.served += length - opened.bytes
        opened.run, opened.bytes, opened.used = run, length, True
        client.declines, client.dawdles = 0, now - opened.at > DAWDLES
        opened.takes(length)
        took = min(now - opened.at, DAWDLES)
        self._turnaround += (took - self._turnaround) * 0.2
        client.used_after(took)
        self._base_delay = usual_delay(self._clients())
        self._waiting.append(opened)
        self._changed(now)

    def declined(self, grant: int, now: float, *, later: bool = False) -> bool:
        """It has nothing to ask for by this grant; ``later``: because enough is on its way to it.

        True where that puts it off: what was needed cannot be.
        """
        opened = self._open.get(grant)
        if opened is None or opened.used:
            return False
        client = opened.client
        if later and not opened.needed:
            # It says so at once, or the slot is kept from others.
            client.dawdles |= now - opened.at > max(PROMPT, 4 * self._turnaround)
            client.later = True
            self._close(opened)
            self._changed(now)
            return True
        client.declines += 1
        client.dawdles |= client.declines > DECLINES
        if opened.ours and opened.run is not None:
            client.refused |= opened.run.mask
        else:
            client.quiet = True
            opened.takes(0)
        self._close(opened)
        self._changed(now)
        return False

    def dropped(self, grant: int, now: float) -> None:
        """It was cancelled."""
        opened = self._open.get(grant)
        if opened is not None:
            if opened.used and opened.run is not None:
                opened.client.given &= ~opened.run.mask
                opened.client.owed &= ~opened.run.mask
            self._close(opened)
            self._changed(now)

    def unwanted(self, client: ClientKey, file: FileKey, now: float) -> None:
        """It wants no more of that file. What it announced counts on while others want some."""
        stock = self._stocks.get(file)
        one = stock.clients.get(client) if stock is not None else None
        if one is not None:
            one.want = 0
            for opened in list(one.open.values()):
                self._close(opened)
        if stock is not None:
            self._forget(stock)
            self._changed(now)

    def left(self, client: ClientKey, now: float) -> None:
        """Its conversation is over."""
        for stock in list(self._stocks.values()):
            one = stock.clients.get(client)
            if one is not None:
                self._drop(one)
                self._forget(stock)
        self._changed(now)

    # What becomes of it

    def sent(self, count: int, now: float) -> None:
        """``count`` bytes went out."""
        self.outflow.sent(count, now)

    def finished(self, grant: int, now: float) -> None:
        """All that was named by the grant went out."""
        opened = self._open.get(grant)
        if opened is None:
            return
        client = opened.client
        seconds = now - opened.began if opened.began is not None else 0.0
        if seconds > 0:
            sample = opened.bytes / seconds
            client.rate += (sample - client.rate) * (0.3 if client.rate else 1.0)
        client.stuck = opened.hangs(now, self.outflow.best)
        opened.ours = False  # it was sent: it counts
        self._close(opened)
        self._changed(now)

    def tick(self, now: float) -> None:
        """To be called several times a second: forgotten grants no longer hold others up."""
        self._changed(now)

    # Inside

    def _clients(self) -> list[Client]:
        return [client for stock in self._stocks.values() for client in stock.clients.values()]

    def _newcomer(self, client: ClientKey, stock: Stock) -> Client:
        """Who comes later is not owed what the others had."""
        served = min((other.served for other in self._clients() if other.want), default=0.0)
        one = stock.clients[client] = Client(client, stock, served, self._random.random())
        return one

    def _forget(self, stock: Stock) -> None:
        """Nobody wants it: nothing is remembered of who had what."""
        if not any(client.want or client.open for client in stock.clients.values()):
            del self._stocks[stock.key]

    def _drop(self, client: Client) -> None:
        client.file.counts.remove(client.announced)
        client.file.once -= client.once
        for opened in list(client.open.values()):
            self._close(opened)
        del client.file.clients[client.key]

    def _close(self, opened: Open) -> None:
        client = opened.client
        if opened.ours and opened.run is not None and not opened.used:
            client.file.counts.remove(opened.run.mask)
            client.given &= ~opened.run.mask
            client.owed &= ~opened.run.mask
            client.served -= opened.bytes
        elif not opened.used:
            client.served -= opened.bytes
        self._open.pop(opened.grant, None)
        client.open.pop(opened.grant, None)
        self._sending.discard(opened)
        if opened in self._waiting:
            self._waiting.remove(opened)

    def _changed(self, now: float) -> None:
        self._now = now
        if self._later is None or self._alone:
            self._go_on(now)
        elif not self._due:
            self._due = True
            self._later(self._told)

    def _told(self) -> None:
        self._due = False
        self._go_on(self._now)

    def _go_on(self, now: float) -> None:
        wanting = [client for client in self._clients() if client.want or client.open]
        self._alone = alone = all(client.key == wanting[0].key for client in wanting)
        self._send_next(alone, now)
        # This is done with each message that comes, mostly for nothing: what costs little comes first.
        self._long = not alone and self._pieces_are_long(wanting)
        while alone or self._room(wanting, now):
            could = [client for client in wanting if self._may(client, alone)]
            if not could:
                return
            self._give(min(could, key=self._rank), wanting, alone, now)

    def _rank(self, client: Client) -> tuple[int, float, float]:
        """Whom to serve first: who has passed on what we gave him, then who got least."""
        stock = client.file
        burden = client.burden if stock.complete and len(stock.clients) > 1 else 0
        return burden, client.served, client.lot

    def _may(self, client: Client, alone: bool) -> bool:
        count = len(client.open)
        most = ALONE if alone else MOST_EACH_LONG if self._long else MOST_EACH
        if count >= min(client.want, most):
            return False
        if client.later and not self._names(client) and not alone and not self._would_idle:
            return False
        if not alone and count and client.slow(self.outflow.best):
            return False
        if client.quiet and not client.lacks_first:
            return False
        if client.once and client.burden >= max(LEAST_BURDEN, client.file.count // BURDEN):
            return False
        return bool(client.lacks) or (alone and client.file.complete and not client.once)

    def _names(self, client: Client) -> bool:
        """True where we say which pieces it gets."""
        return client.file.complete or bool(client.lacks_first)

    def _room(self, wanting: list[Client], now: float) -> bool:
        """True where more is to be granted, lest the link idle."""
        ahead = 0
        among: list[Client] = []
        for opened in self._open.values():
            client = opened.client
            if not opened.used and now - opened.at > DAWDLES:
                client.dawdles = True
            if (opened.used or not client.dawdles) and not client.slow(self.outflow.best):
                among.append(client)
                ahead += opened.bytes
        self._would_idle = not (self._long and ahead) or ahead < self._lead(self.outflow.rate, AHEAD)
        if self._long:
            # Of one who was alone several may be open: a newcomer does not wait for them.
            return len(set(among)) < self._slots() or self._would_idle
        return len(among) < LEAST or ahead < self._goal(wanting)

    def _slots(self) -> int:
        """Ranges that are sent at once."""
        if not self._long:
            return SLOTS
        return long_at_once(self._stocks.values(), filled=self.outflow.rate >= self.outflow.best * FILLED)

    def _pieces_are_long(self, wanting: list[Client]) -> bool:
        """True where the link does not idle though only one piece is granted ahead."""
        lead = self._lead(self.outflow.rate, AHEAD) or LONG_PIECE
        return all(client.file.piece_size > lead for client in wanting)

    def _goal(self, wanting: list[Client]) -> float:
        """Bytes to have granted."""
        complete = any(stock.complete for stock in self._stocks.values())  # far fewer than clients
        naming = complete and any(client.file.complete and not client.quiet for client in wanting)
        rate, beyond = (self.outflow.rate, AHEAD) if naming else (self.outflow.best, AHEAD_OF_CHOOSERS)
        return self._lead(rate, beyond)

    def _lead(self, rate: float, beyond: float) -> float:
        """Bytes that go out until a grant is used, and in so many seconds ``beyond`` that."""
        return rate * (self._turnaround + BASE_DELAYS * self._base_delay + beyond)

    def _give(self, client: Client, wanting: list[Client], alone: bool, now: float) -> None:
        stock = client.file
        grant, self._next = self._next, self._next + 1
        run: Run | None = None
        if alone and not (client.once or client.quiet):
            limit = max(GRANT_BYTES, stock.piece_size)
            expected = min(limit, max(int(self.outflow.rate * ALONE_RUN) or FIRST_RUN, stock.piece_size))
        else:
            names = self._names(client)
            pieces = max(1, self._run_bytes(client, wanting, names) // stock.piece_size)
            limit = pieces * stock.piece_size
            expected = max(int(limit * stock.taken), stock.piece_size)
            if names:
                run = self._choose(client, pieces)
        choice = 0 if alone or run is not None else limit
        needed = alone or self._would_idle or run is not None
        opened = Open(grant, client, expected, now, choice, run, run is not None, needed)
        if run is not None:
            stock.counts.add(run.mask)
            client.given |= run.mask
            client.owed |= run.mask
            client.named |= run.mask
            opened.bytes = limit = len(run) * stock.piece_size
        client.served += opened.bytes
        client.open[grant] = self._open[grant] = opened
        self._driver.grant(client.key, stock.key, grant, limit, run, needed=needed)

    def _run_bytes(self, client: Client, wanting: list[Client], names: bool) -> int:
        """Bytes of a grant to one of several; 0: a piece."""
        stock = client.file
        first_out = min(FIRST_ROUNDS * len(wanting), stock.count // 2)
        if not self.outflow.rate or (stock.complete and stock.handed_out < first_out):
            return 0
        rate, size = self.outflow.rate, stock.count * stock.piece_size
        all_out = stock.handed_out == stock.count and not self._long  # nobody waits for the first ones
        usual = runs.of_swarm(rate, size) if all_out or not names else runs.to_name(rate)
        # From far away more has to be granted: nobody has more than so many open.
        return max(usual, int(self._goal(wanting) / (MOST_EACH * len(wanting))) if names else 0)

    def _choose(self, client: Client, pieces: int) -> Run:
        stock = client.file
        lacks = client.lacks if stock.complete and not client.quiet else client.lacks_first
        rarest = stock.counts.rarest(lacks)
        # What has gone out once goes out again with its neighbours, though they are not as rare.
        among = rarest if rarest & stock.counts.at_most(0) else lacks
        if stock.complete:
            # Nobody is given at once what would be half of his share of them.
            wanting = sum(1 for each in stock.clients.values() if each.want)
            pieces = max(1, min(pieces, among.bit_count() // (2 * max(wanting, 1))))
        behind = rarest >> client.place
        first = client.place + lowest(behind) if behind else lowest(rarest)
        return around(among, first, pieces)

    def _send_next(self, alone: bool, now: float) -> None:
        """In the order in which they were named, few at once: each is through the sooner."""
        for opened in self._sending:
            opened.client.stuck |= opened.hangs(now, self.outflow.best)
        while self._waiting:
            busy = sum(1 for opened in self._sending if not opened.client.slow(self.outflow.best))
            if not alone and busy >= self._slots():
                return
            opened = self._waiting.popleft()
            if not self._sending:
                self.outflow.resumes(now, 2 * self._turnaround)  # nobody wanted anything: that does not count
            opened.began = now
            self._sending.add(opened)
            self._driver.send(opened.client.key, opened.grant)
