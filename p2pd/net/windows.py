"""How much each of several sources may send ahead, where what comes from all fills our link.

What was sent and not yet received waits in the queue of the last switch before us, and what is said
waits behind it; where that queue is full it is sent in vain. By itself the kernel lets each connection
send ahead as much as ever was taken from it in a round trip, and more, whatever others do. Who receives
knows how many send, and how much.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Collection

from p2pd.net.tcpinfo import incoming

MANY = 3
"""Connections over which something comes: fewer are the kernel's business."""
IN_USE = 16 * 1024
"""Bytes per second that come over one of them."""
SECONDS = 0.03
"""What comes over a connection in so many seconds may be sent ahead, beside what is on its way,"""
LEAST_SECONDS = 0.016
"""or what comes over all of them in so many seconds: it may be the only one in a moment;"""
LEAST = 32 * 1024
ENOUGH = 64 * 1024
"""of that, so many bytes at least and at most;"""
SEGMENTS = 4
"""never fewer than so many of the longest segments: who sends waits until one fits."""
BEGINS = 2.0
"""the latter while it is not known yet what comes, for so many seconds."""
STEP = 16 * 1024
MOST = 192 * 1024
"""Where it would be more than so many there is no limit: more an unprivileged process may not name."""
FELL = 0.6
"""If what comes falls to this part of what came, our limit may be why:"""
TRIAL = 2.0
"""for so many seconds there is none,"""
FREE = 60.0
"""and for so many if it was."""
_SO_BUF_LOCK, _RCVBUF = 72, 2
"""Of linux/socket.h: the kernel is not to change the receive buffer; 0: it is. Since Linux 5.14."""
_SO_MEMINFO = 55
"""Of linux/socket.h: first of what it tells is the memory that what came and was not read takes."""
_ANY = 2**30


class Windows:
    """Whether there is a limit, and the least one. Pure; times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._last = self._since = float("-inf")
        self._rate = 0.0
        self._best = 0.0
        self._trial: float | None = None  # when it ends
        self._free = float("-inf")

    def measured(self, now: float, rates: Collection[float]) -> int | None:
        """Since the last time so many bytes per second came over each connection. The least that each may
        send ahead; None: no limit.
        """
        span, self._last = now - self._last, now
        if sum(1 for each in rates if each >= IN_USE) < MANY or span > TRIAL:
            self._rate = self._best = 0.0
            self._trial, self._since = None, now
            return None
        self._rate += (sum(rates) - self._rate) * (0.3 if self._rate else 1.0)
        if self._may_limit(now):
            self._best = max(self._best, self._rate)
            if now - self._since < BEGINS:
                return ENOUGH
            return max(LEAST, min(int(self._best * LEAST_SECONDS), ENOUGH))
        return None

    def _may_limit(self, now: float) -> bool:
        fell = self._rate < self._best * FELL
        if self._trial is not None:
            if now < self._trial:
                return False
            self._trial, self._best = None, self._rate  # what there is now
            if not fell:
                self._free = now + FREE
        elif fell and now >= self._free:
            self._trial = now + TRIAL
        return self._trial is None and now >= self._free


def window(rate: float, latency: float, pause: float, least: int) -> int | None:
    """Bytes that may be sent ahead over a connection; None: any number.

    ``rate``: bytes per second that come over it; ``latency``: seconds that a round trip takes at least;
    ``pause``: seconds for which we do not look; ``least``: see :class:`Windows`.
    """
    # From afar twice what is on its way: the rate is to grow.
    wanted = max(least, int(rate * (SECONDS + pause + 2 * latency)))
    return -(-wanted // STEP) * STEP if wanted <= MOST else None


class Ahead:
    """What may be sent ahead over a connection. OSError from the system that has no such limits."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.limit: int | None = None
        """Bytes, about; None: as many as the kernel finds good."""
        self.rate: float | None = None
        """Bytes per second that came between the last two looks; None: not known."""
        self._held = False  # what came and was not read yet counts as well
        self._reduced = False  # it was, since there is a limit
        self._looked = float("-inf")
        self._before = 0  # the largest window that the kernel named when there was no limit
        self._free_at = 0  # when so much came, nothing is under way that was promised before
        # What could not be lifted again is not done; some take any option, and do nothing.
        self._told = incoming(connection)
        self._lock(_RCVBUF)
        locked = connection.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK)
        self._lock(0)
        if locked != _RCVBUF or self._told is None:
            raise OSError("no limits of what is sent ahead")

    def look(self, now: float) -> None:
        """See what came; ``now``: seconds of any monotonic clock. To be called before :meth:`let`."""
        told = incoming(self._socket)
        span = now - self._looked
        before, self._told, self._looked = self._told, told, now
        self.rate = None
        if told is None:
            self.limit = None  # it is closed
        elif before is not None and 0 < span <= TRIAL:
            self.rate = (told.received - before.received) / span

    def wanted(self, pause: float, least: int) -> int | None:
        """Bytes, by what was seen; None: any number. See :func:`window`."""
        if self.rate is None or self._told is None:
            return self.limit
        least = max(least, SEGMENTS * self._told.segment)
        return window(self.rate, self._told.latency, pause, least)

    def let(self, count: int | None) -> None:
        """Make ``count`` the limit; to be called again and again while there is one."""
        now = self.limit
        if count and now and count < now and now * 3 < count * 4:
            count = now  # rates swing
        with contextlib.suppress(OSError):  # lost meanwhile, which is told as ever
            if count != now:
                self.limit = count
                if count is None:
                    self._lift()
                elif self._held and now and count > now:
                    self._hold(count)
                    self._promise(count)
                else:
                    self._begin(count, first=now is None)
            elif count and not self._held:
                if self._may_hold(count):
                    self._hold(count)
                else:
                    self._promise(count)  # some kernels forget it when the size of what comes changes

    def _begin(self, count: int, *, first: bool) -> None:
        """What was promised until now may be under way, and is not to be dropped when it comes."""
        buffer = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        if first:
            named = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP)
            self._before = min(named, buffer)
        self._held = False
        if self._told is not None:
            promised = self._told.promised
            self._free_at = self._told.received + (buffer if promised is None else promised)
        self._lock(_RCVBUF)
        self._promise(count)

    def _may_hold(self, count: int) -> bool:
        """Nothing more comes of what was promised before, and what waits behind a gap is not dropped."""
        if self._told is None or self._told.received < self._free_at:
            return False
        told = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4)
        return bool(struct.unpack("=I", told)[0] <= count)

    def _lift(self) -> None:
        if self._reduced:
            self._hold(MOST)
        self._lock(0)
        self._promise(_ANY)
        if self._reduced:
            self._held = self._reduced = False
            # The kernel remembers how much it was when much came, and lets it grow only from there. But for
            # what is waited for it makes room.
            least = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
            self._wait_for(self._before)
            self._wait_for(least)

    def _wait_for(self, count: int) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def _promise(self, count: int) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, count)

    def _hold(self, count: int) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, count)
        self._held = self._reduced = True

    def _lock(self, what: int) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, what)
