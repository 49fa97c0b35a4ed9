"""What a client may use up, and the bounded way of answers to it."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from p2pd.control.commands import MAX_LINE

log = Logger()


@attrs.frozen
class Limits:
    """What a client may use up: bytes, connections, seconds."""

    line: int = MAX_LINE
    unread: int = 16 * 1024 * 1024
    """Bytes of answers that wait for a client before it is cut off."""
    sessions: int = 64
    stall: float = 300.0
    """Seconds in which a client with answers waiting reads nothing."""
    presence: float = 0.5
    """Seconds between looks whether a client whose side is closed still listens."""
    farewell: float = 1.0
    """Seconds in which the last answers must be read when the daemon stops."""


@implementer(IPushProducer)
class Output:
    """Towards the client; told by the transport when its buffer is full and when it is empty again."""

    def __init__(self, reactor: Any, transport: Any, limits: Limits) -> None:
        self._reactor = reactor
        self._transport = transport
        self._limits = limits
        self._paused = self._closed = False
        self._unread = 0
        self._stall: IDelayedCall | None = None
        self._waiting: list[defer.Deferred[None]] = []
        self.muted = False

    def write(self, line: bytes, optional: bool = False) -> bool:
        """Send ``line``; where the client lags an ``optional`` one is dropped. False: it lags too far."""
        if self._closed or self.muted or (optional and self._paused):
            return True
        self._transport.write(line)
        if self._paused:
            self._unread += len(line)
        return self._unread <= self._limits.unread

    async def drained(self) -> None:
        """Return in a later step of the reactor, once the client has read most of what was sent."""
        done: defer.Deferred[None] = defer.Deferred()
        if self._paused and not self._closed:
            self._waiting.append(done)
        else:
            self._reactor.callLater(0, lambda: None if done.called else done.callback(None))
        await done

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        if not self._paused and not self._closed:
            self._paused = True
            self._stall = self._reactor.callLater(self._limits.stall, self._stalled)

    def resumeProducing(self) -> None:
        """The transport's buffer is empty."""
        self._release()

    def stopProducing(self) -> None:
        """The connection is lost."""
        self.close()

    def finish(self) -> None:
        """Nothing follows: a transport with a producer would wait for it instead of closing."""
        self._transport.unregisterProducer()
        self._release()

    def close(self) -> None:
        """Send nothing more; whoever waits goes on."""
        self._closed = True
        self._release()

    def _stalled(self) -> None:
        self._stall = None
        log.warn("control socket: a client read nothing for {seconds} s", seconds=self._limits.stall)
        self._transport.abortConnection()

    def _release(self) -> None:
        self._paused = False
        self._unread = 0
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            if not done.called:
                done.callback(None)
