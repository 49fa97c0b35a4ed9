"""How much each of several sources may send ahead, where what comes from all fills our link.

What was sent and not yet received waits in the queue of the last switch before us, and what is said
waits behind it; where that queue is full it is sent in vain. By itself the kernel lets each connection
send ahead as much as ever was taken from it in a round trip, and more, whatever others do. Who receives
knows how many send, and how much.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection

from p2pd.net.tcpinfo import traffic

MANY = 3
"""Connections over which something comes: fewer are the kernel's business."""
IN_USE = 4 * 1024
"""Bytes that come over one of them in a window of measuring."""
SECONDS = 0.03
"""What comes over a connection in so many seconds may be sent ahead, beside what is on its way,"""
LEAST_SECONDS = 0.016
"""or what comes over all of them in so many seconds: it may be the only one in a moment;"""
LEAST = 32 * 1024
ENOUGH = 64 * 1024
"""of that, so many bytes at least and at most;"""
BEGINS = 2.0
"""as many as that while it is not known yet what comes."""
STEP = 16 * 1024
MOST = 192 * 1024
"""any number, if it would be more than so many (more an unprivileged process may not name)."""
FELL = 0.6
"""If what comes falls to this part of what came, our limit may be why:"""
TRIAL = 2.0
"""for so many seconds there is none,"""
FREE = 60.0
"""and for so many if it was."""
_SO_BUF_LOCK, _RCVBUF = 72, 2
"""Of linux/socket.h: the kernel is not to change the receive buffer; 0: it is. Since Linux 5.14."""
_ANY = 2**30


class Windows:
    """Whether there is a limit, and the least one. Pure; times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._last = self._since = float("-inf")
        self._rate = 0.0
        self._best = 0.0
        self._trial: float | None = None  # when it ends
        self._free = float("-inf")

    def measured(self, now: float, received: Collection[int]) -> int | None:
        """Since the last time so many bytes came over each connection. The least that each may send ahead;
        None: no limit.
        """
        span, self._last = now - self._last, now
        if sum(1 for each in received if each >= IN_USE) < MANY or span > TRIAL:
            self._rate = self._best = 0.0
            self._trial, self._since = None, now
            return None
        self._rate += (sum(received) / span - self._rate) * (0.3 if self._rate else 1.0)
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
        self._held = False  # what came and was not read yet counts as well
        self._lock(0)  # what could not be lifted again is not done

    @property
    def latency(self) -> float:
        """Seconds that a round trip takes at least; 0: not known."""
        told = traffic(self._socket)
        return told.latency if told is not None else 0.0

    def let(self, count: int | None) -> None:
        """Make ``count`` the limit; to be called again and again while there is one."""
        now = self.limit
        if count and now and count < now and now * 3 < count * 4:
            count = now  # rates swing
        with contextlib.suppress(OSError):  # lost meanwhile, which is told as ever
            if count == now:
                if count and not self._held:
                    self._hold(count)
                return
            self.limit = count
            if count is None:
                if self._held:
                    self._hold(MOST)  # the kernel begins with what there is, and lets it grow only from there
                self._lock(0)
                self._promise(_ANY)
            else:
                # What was promised until now may be under way, and is not to be dropped when it comes.
                if self._held and now and count > now:
                    self._hold(count)
                else:
                    self._held = False
                    self._lock(_RCVBUF)
                self._promise(count)

    def _promise(self, count: int) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, count)

    def _hold(self, count: int) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, count)
        self._held = True

    def _lock(self, what: int) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, what)
