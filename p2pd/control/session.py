"""One connection to the control socket: lines in, JSON lines out, one command at a time.

A line is read, run and answered before the next one is looked at; what comes in
meanwhile waits in a buffer, and when that is full, in the kernel. Answers too are
bounded: progress that nobody reads is dropped, anything else ends the connection.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
from collections.abc import Callable, Iterable
from itertools import islice
from os import geteuid
from typing import Any, Protocol, cast

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from p2pd import __version__
from p2pd.control import commands
from p2pd.control.output import Limits, Output
from p2pd.errors import BY_CODE, P2PError, RefusedError, UsageError
from p2pd.text import escape

log = Logger()

Emit = Callable[[dict[str, Any]], None]
"""Sends one event; does nothing once its command has ended or its client is gone."""

ROWS_AT_ONCE = 200
"""Rows of a listing encoded in one step of the reactor: about a millisecond."""


class Handlers(Protocol):
    """What a daemon hands in: for each command of its role a coroutine method ``cmd_NAME``.

    ``async def cmd_NAME(args: argparse.Namespace, emit: Emit) -> dict``: the dict's
    keys go into `done`; a P2PError becomes `failed` with its code, message and
    details. A listing may emit ``{"event": "item", ...}`` per row, or return
    ``{"rows": iterable of dicts}``, which is then sent in steps, as fast as the
    client reads. The coroutine is cancelled when its client goes away.
    """


@implementer(IHalfCloseableProtocol)
class Session(TwistedProtocol):
    """One client. Calls ``gone(self)`` once when the connection has ended.

    With a ``refusal`` it is told that sentence and nothing else.
    """

    def __init__(
        self,
        reactor: Any,
        handlers: Handlers,
        role: str,
        limits: Limits,
        gone: Callable[[Session], None],
        *,
        refusal: str | None = None,
    ) -> None:
        self._reactor = reactor
        self._handlers = handlers
        self._role = role
        self._limits = limits
        self._gone = gone
        self._refusal = refusal
        self._input = bytearray()
        self._out: Output | None = None
        self._running: defer.Deferred[None] | None = None
        self._command = ""
        self._busy = self._eof = self._closing = self._lost = False
        self._presence: IDelayedCall | None = None
        self._closed: list[defer.Deferred[None]] = []

    # -- what Twisted calls

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._out = Output(self._reactor, transport, self._limits)
        transport.registerProducer(self._out, True)
        uid = _peer_uid(transport.getHandle())
        if uid not in (geteuid(), 0):
            log.warn("control socket: uid {uid} turned away", uid=uid)
            self._refusal = f"The control socket is not yours: uid {uid} is not let in."
        if self._refusal is not None:
            self._fail(RefusedError(self._refusal))
            self._close()

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        self._input += data
        self._next()

    def readConnectionLost(self) -> None:
        """The client has nothing more to say; it still gets its answers."""
        self._eof = True
        self._next()

    def writeConnectionLost(self) -> None:
        """Nobody reads any more: nothing is left to do."""
        self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = self._lost = True
        if self._presence is not None:
            self._presence.cancel()
            self._presence = None
        if self._out is not None:
            self._out.close()
        if self._running is not None:
            self._running.cancel()
        waiting, self._closed = self._closed, []
        self._gone(self)
        for done in waiting:
            done.callback(None)

    # -- what the service calls

    def shut_down(self) -> defer.Deferred[None]:
        """Answer and close; fires when the connection has ended, at the latest after ``farewell`` seconds."""
        done: defer.Deferred[None] = defer.Deferred()
        if self._lost:
            done.callback(None)
            return done
        self._closed.append(done)
        deadline = self._reactor.callLater(self._limits.farewell, self._abort)
        done.addCallback(lambda _: deadline.cancel() if deadline.active() else None)
        was_closing, self._closing = self._closing, True
        if self._running is not None:
            if self._command == "left_peer":
                self._send({"event": "done"})  # it is done: that is why we stop
            else:
                self._fail(P2PError("The daemon is stopping; transfers go on at its next start."))
            if self._out is not None:
                self._out.muted = True  # the command has its answer; what it says further is lost
            self._running.cancel()
        if not was_closing:
            self._lose()
        return done

    # -- lines

    def _next(self) -> None:
        """Run the next whole line, if no command runs; hold the client back where the buffer is full."""
        if self._closing:
            return
        while not self._busy:
            end = self._input.find(b"\n", 0, self._limits.line + 1)
            if end < 0 and len(self._input) > self._limits.line:
                self._fail(UsageError(f"The line is longer than {self._limits.line} bytes."))
                self._close()
                return
            if end < 0:
                if not self._eof:
                    break
                if not self._input:
                    self._close()
                    return
                end = len(self._input)  # a last line without its line feed
            line = bytes(self._input[:end])
            del self._input[: end + 1]
            if line.strip():
                self._run(line)
        full = len(self._input) > self._limits.line
        if not self._eof:
            (self._transport().pauseProducing if full else self._transport().resumeProducing)()
        if (self._eof or full) and self._running is not None:
            self._watch()

    def _run(self, line: bytes) -> None:
        self._busy = True
        try:
            args = commands.parse(commands.split(line), self._role)
        except UsageError as error:
            self._fail(error)
            self._ended()
            return
        self._command = args.command
        self._running = defer.Deferred.fromCoroutine(self._answer(args))
        self._running.addBoth(self._ended)

    def _ended(self, _: object = None) -> None:
        self._running = None
        # one line in a step of the reactor: thousands of quick ones hold nobody else up
        self._reactor.callLater(0, self._continue)

    def _continue(self) -> None:
        self._busy = False
        self._next()

    async def _answer(self, args: argparse.Namespace) -> None:
        """Run one command and send its one `done` or `failed`; raises nothing."""
        active = True

        def emit(event: dict[str, Any]) -> None:
            if active:
                self._send(event)

        try:
            result = await self._result_of(args, emit)
            rows = result.pop("rows", None)
            if rows is not None:
                await self._send_rows(rows)
            self._send({"event": "done"} | result | {"event": "done"})
        except P2PError as error:
            self._fail(error)
        except defer.CancelledError:
            self._fail(P2PError("The command was ended before its answer."))
        except Exception as error:
            log.failure("control socket: {command} went wrong", command=args.command)
            self._fail(P2PError(f"The daemon made a mistake ({type(error).__name__}); its log says more."))
        finally:
            active = False

    async def _result_of(self, args: argparse.Namespace, emit: Emit) -> dict[str, Any]:
        if args.command == "version":
            return {"version": __version__, "role": self._role}
        if args.command == "help":
            return {"text": commands.help_text(args.about, self._role)}
        handler = getattr(self._handlers, f"cmd_{args.command}")
        return dict(cast("dict[str, Any]", await handler(args, emit)) or {})

    async def _send_rows(self, rows: Iterable[dict[str, Any]]) -> None:
        rest = iter(rows)
        while (batch := list(islice(rest, ROWS_AT_ONCE))) and self._out is not None:
            for row in batch:
                self._send({"event": "item", **row})
            await self._out.drained()

    # -- answers

    def _send(self, event: dict[str, Any]) -> None:
        """One JSON line; ValueError or TypeError where ``event`` is no JSON."""
        line = json.dumps(event, allow_nan=False, separators=(", ", ": ")).encode("ascii") + b"\n"
        if self._out is not None and not self._out.write(line, event.get("event") == "progress"):
            log.warn("control socket: a client that does not read was cut off")
            self._abort()

    def _fail(self, error: P2PError) -> None:
        code = error.code if error.code in BY_CODE else P2PError.code
        head = {"event": "failed", "code": code, "message": escape(error.message)}
        try:
            self._send({**head, **error.details, **head})
        except (TypeError, ValueError):
            log.failure("control socket: details that are no JSON")
            self._send(head)

    # -- the end

    def _transport(self) -> Any:
        return self.transport

    def _close(self) -> None:
        self._closing = True
        self._lose()
        # a client that reads nothing would keep its last answers, and its place, for ever
        if self._presence is None:
            self._presence = self._reactor.callLater(self._limits.stall, self._expire)

    def _lose(self) -> None:
        if self._out is not None:
            self._out.finish()
        self._transport().loseConnection()

    def _expire(self) -> None:
        self._presence = None
        self._abort()

    def _abort(self) -> None:
        self._closing = True
        if self._out is not None:
            self._out.close()
        self._transport().abortConnection()

    def _watch(self) -> None:
        """Look now and then whether the client is still there.

        While its side is closed or held back, the reactor does not read, and so
        nobody would be told that the other end has gone.
        """
        if self._presence is None:
            self._presence = self._reactor.callLater(self._limits.presence, self._look)

    def _look(self) -> None:
        self._presence = None
        if self._running is None or self._closing:
            return
        poller = select.poll()
        poller.register(self._transport().getHandle().fileno(), 0)
        if any(events & (select.POLLHUP | select.POLLERR) for _, events in poller.poll(0)):
            self._abort()
        elif self._eof or len(self._input) > self._limits.line:
            self._watch()


def _peer_uid(handle: socket.socket) -> int:
    """Who connected: the uid that the kernel vouches for."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)
