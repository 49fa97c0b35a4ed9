"""A TCP transport that sends files by sendfile and receives bodies into the protocol's own memory.

Twisted's own `doRead` and `doWrite` copy every byte several times. Here `doWrite`
flushes the transport's buffer through the original, then sends the protocol's
current :class:`FileSlice` by os.sendfile on the same descriptor; what is written
meanwhile waits in the buffer for the slice's end. `doRead` receives straight into
the memory that the protocol names. Everything else (closing, producers, TLS being
absent) is Twisted's.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

import attrs
from twisted.internet import main, tcp
from twisted.logger import Logger

from p2pd.net.listening import Port
from p2pd.net.rounds import IN, OUT, rounds_of
from p2pd.net.windows import Ahead

TURN = 4 * 1024 * 1024
"""Bytes sent or received before other connections get their turn."""
_SCRATCH = bytearray(16 * 1024)
"""Lines are short; what comes behind one of a body is copied once. Used within one call only."""
_SCRATCH_VIEW = memoryview(_SCRATCH)
_TCP_NOTSENT_LOWAT = 25
USUAL_QUEUE = 64 * 1024
"""Bytes that may wait in the kernel before our rate is known."""
LEAST_QUEUE = 32 * 1024
"""What lies in the kernel's queue cannot be reconsidered, and messages wait behind it: keep it short,"""
MOST_QUEUE = 1024 * 1024
"""but where it is refilled often the wake-ups for that take more of the processor than sending does."""
WAKE_AT = 2 * 1024 * 1024
"""Bytes of a body that are waited for at once: each wake-up costs about as much as 100 KiB do."""
_READ = 256 * 1024
"""Bytes received by one call: while it copies, what the other side sends has to wait in a backlog."""
_WINDOW = 12 * 1024 * 1024
"""Bytes that another process of this machine may have sent ahead: it sends more at a time, then."""
SHORT_BODY = 4 * 1024
"""With so little to come of a body, which may come slowly, what there is is read at once."""

log = Logger("p2pd.net")


@attrs.define(eq=False)
class FileSlice:
    """``left`` bytes at ``offset`` of the open file ``fd``, which stays open until they are sent.

    Meanwhile ``queue`` bytes, rounded up to a power of two, may wait in the kernel; 0: as before.
    """

    fd: int
    offset: int
    left: int
    queue: int


class FastProtocol(Protocol):
    """What the transport asks of its protocol, beyond IProtocol."""

    def next_slice(self) -> tuple[bytes, FileSlice] | None:
        """A header and the file bytes that follow it; None: nothing more for now."""

    def slice_failed(self, reason: str) -> None:
        """The file was shorter than its header said, or unreadable: the connection is being aborted."""

    def body_target(self) -> memoryview | None:
        """Where the next bytes belong that are part of a body; None: they are lines."""

    def body_received(self, count: int) -> None:
        """``count`` bytes were put into the target."""

    @property
    def body_left(self) -> int:
        """Bytes of the body that are still to be received; 0: none is coming."""


class _Turn:
    """Which connections have something to send at the end of the reactor's turn."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = ref(reactor)  # it is the key under which this is kept
        self._waiting: list[_Fast] = []

    def add(self, connection: _Fast) -> None:
        self._waiting.append(connection)
        if len(self._waiting) == 1:
            rounds_of(self._reactor()).soon(self._end, last=True)

    def _end(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            try:
                connection.end_of_turn()
            except Exception:
                # A fault of ours, but one connection is all that it may cost.
                log.failure("sending")
                connection.abortConnection()


_turns: WeakKeyDictionary[Any, _Turn] = WeakKeyDictionary()


def _turn_of(reactor: Any) -> _Turn:
    turn = _turns.get(reactor)
    if turn is None:
        turn = _turns[reactor] = _Turn(reactor)
    return turn


class _Fast(tcp.Connection):
    """The mixin of server and client side. The protocol provides :class:`FastProtocol`."""

    protocol: Any
    _slice: FileSlice | None = None
    _header = b""  # what of the slice's header is still to be sent
    _reading_wanted = True
    _wakes_at = 1
    _widen = False  # to be done once a body comes that was asked for: others must not fill our memory
    _armed = False  # the reactor says when the socket takes more
    _soon = False  # what was written goes out at the end of this turn
    _slices = False  # the protocol may have one
    _near = False  # both ends are on this machine
    _queue = USUAL_QUEUE
    interest = 0
    """What it waits for, see :mod:`p2pd.net.rounds`."""
    ahead: Ahead | None = None
    """None: what the other side sends ahead is not ours to limit."""
    sent_bytes = 0
    """Bytes the kernel took so far: shows whether the other side still reads."""
    _got_bytes = 0

    def tune(self) -> None:
        """Set the socket's options; called by the protocol when it is connected."""
        # Where it was reset meanwhile these fail; that it is lost is told as ever.
        with contextlib.suppress(OSError):
            self._tune()

    def _tune(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, USUAL_QUEUE)
        if self.socket.getsockname()[0] == self.socket.getpeername()[0]:
            # On one machine nothing is congested, and BBR's timers take as long as the copying.
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            self._widen = self._near = True
        else:
            self.ahead = Ahead(self.socket)

    def _let_wait(self, count: int) -> None:
        """About ``count`` bytes may wait in the kernel, 0: as before; on one machine, where that is no wait,
        always few.
        """
        if self._near or not count:
            return
        queue = min(max(1 << (count - 1).bit_length(), LEAST_QUEUE), MOST_QUEUE)
        if queue > self._queue or (queue < self._queue and count * 8 <= self._queue * 3):  # rates swing
            self._queue = queue
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, queue)

    def startWriting(self) -> None:
        """What was written in this turn goes out at its end, by one call, without asking whether it can.

        Only where it could not all be sent is the reactor told to say when there is room.
        """
        if not self.connected:
            super().startWriting()  # it is being connected: the kernel says when that is done
        elif not self._armed and not self._soon:
            self._soon = True
            _turn_of(self.reactor).add(self)

    def write(self, data: bytes) -> None:
        """As the original, which does more than most messages need."""
        waiting = len(self.dataBuffer) + self._tempDataLen + len(data)
        plain = type(data) is bytes and data and self.connected and not self._writeDisconnected
        if not plain or waiting > self.bufferSize:
            super().write(data)  # it may pause the producer, or refuse
            return
        self._tempDataBuffer.append(data)
        self._tempDataLen += len(data)
        if not (self._soon or self._armed):
            self.startWriting()

    def end_of_turn(self) -> None:
        """Send what was written, and what the protocol has."""
        self._soon = False
        if not self.connected or self.disconnected or self._armed:
            return
        if self._only_messages:
            self._send_messages()
            return
        lost = self.doWrite()
        # An error comes again, and then the reactor hears it.
        if lost is not None or self.blocked:
            self._arm()

    @property
    def _only_messages(self) -> bool:
        """True where nothing is to be done but to send some: nearly always."""
        return self._tempDataLen > 0 and not (
            self._slices
            or self._slice is not None
            or self.dataBuffer
            or self.disconnecting
            or self._writeDisconnecting
            or self.producerPaused
        )

    def _send_messages(self) -> None:
        data = b"".join(self._tempDataBuffer)
        self._tempDataBuffer, self._tempDataLen = [], 0
        try:
            sent = self.socket.send(data)
        except OSError:  # it is full; or lost, which the reactor hears when that comes again
            sent = 0
        self.sent_bytes += sent
        if sent < len(data):
            self.dataBuffer, self.offset = data, sent
            self._arm()

    def _arm(self) -> None:
        if self.connected and not self.disconnected:
            self._armed = True
            self._interested(self.interest | OUT)

    def _interested(self, new: int) -> None:
        if self.interest != new:
            rounds_of(self.reactor).change(self, self.interest, new)
            self.interest = new  # not where it was refused

    @property
    def moved(self) -> int:
        """Bytes sent and received so far."""
        return self.sent_bytes + self._got_bytes

    def stopWriting(self) -> None:
        """As the original; most often the reactor was not told to begin with."""
        self._armed = False
        if self.interest & OUT:
            self._interested(self.interest & ~OUT)
        elif not self.connected:
            super().stopWriting()

    def slices_ready(self) -> None:
        """The protocol has something for :meth:`FastProtocol.next_slice`."""
        if self.connected and not self.disconnecting:
            self._slices = True
            self.startWriting()

    @property
    def unsent(self) -> int:
        """Bytes of messages that wait to be sent, files not counted."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    @property
    def blocked(self) -> bool:
        """True where something waits to be sent."""
        return self._slice is not None or self.unsent > 0

    def writeSomeData(self, data: bytes) -> Any:
        """As the original, counted; nothing is not sent."""
        if not data:
            return 0
        sent = super().writeSomeData(data)
        if isinstance(sent, int):
            self.sent_bytes += sent
        return sent

    def doWrite(self) -> Any:
        """Messages first, then a slice whole, until the socket is full or the turn is over.

        A slice begun is finished even when the connection is to be closed: a message, the
        last one too, must not be taken for part of its body.
        """
        budget = TURN
        self._slices = False
        while True:
            if self._slice is None:
                if self.unsent or self.disconnecting:
                    lost = super().doWrite()
                    if lost is not None:
                        return lost
                    if self.unsent or self.disconnecting or self.disconnected or self._writeDisconnected:
                        return None  # half-closed just now: another write would end it, unread data reset it
                made = self.protocol.next_slice()
                if made is not None:
                    self._header, self._slice = made
                    self._let_wait(made[1].queue)
                elif not self.unsent:
                    # Lets the original stop writing, and wake a producer or half-close.
                    return super().doWrite()
                else:
                    return None
                continue
            if self._header:
                try:
                    # It waits in the kernel for the data behind it.
                    sent = self.socket.send(self._header, socket.MSG_MORE)
                except (BlockingIOError, InterruptedError):
                    self._arm()
                    return None
                except OSError:
                    return main.CONNECTION_LOST
                self.sent_bytes += sent
                self._header = self._header[sent:]
                continue
            piece = self._slice
            asked = min(piece.left, budget)
            try:
                sent = os.sendfile(self.fileno(), piece.fd, piece.offset, asked)
            except (BlockingIOError, InterruptedError):
                self._arm()
                return None
            except (BrokenPipeError, ConnectionResetError):
                return main.CONNECTION_LOST
            except OSError as error:
                return self._slice_failed(f"reading failed: {error.strerror}")
            if not sent:
                return self._slice_failed("the file became shorter")
            self.sent_bytes += sent
            piece.offset += sent
            piece.left -= sent
            budget -= sent
            if not piece.left:
                self._slice = None
            if budget <= 0 or sent < asked:
                # The turn is over, or the socket full: asking again would only be told so.
                self._arm()
                return None

    def _slice_failed(self, reason: str) -> None:
        # What the header promised cannot be sent, so nothing can follow on this connection.
        self._slice, self._header = None, b""
        self.protocol.slice_failed(reason)
        self.abortConnection()

    def stopReading(self) -> None:
        """As the original; a turn under way ends."""
        self._reading_wanted = False
        if self.interest & IN:
            self._interested(self.interest & ~IN)
        elif not self.connected:
            super().stopReading()

    def startReading(self) -> None:
        """As the original."""
        self._reading_wanted = True
        if self.connected or isinstance(self, tcp.Server):
            if not self.disconnected:
                self._interested(self.interest | IN)
        else:
            super().startReading()  # it is being connected

    def doRead(self) -> Any:
        """Bodies go straight to where they belong, lines through dataReceived."""
        end = self._read_turn()
        if not self.disconnected and end is None:
            # Whatever ended the turn: what wakes us next must not be more than is sure to come.
            self._wake_at(self.protocol.body_left)
        return end

    def _read_turn(self) -> Any:
        budget = TURN
        protocol = self.protocol
        while budget > 0 and self._reading_wanted and not self.disconnected:
            target = protocol.body_target()
            into = target if target is not None else _SCRATCH_VIEW
            count, end = self._fill(into)
            budget -= count
            if count and target is not None:
                protocol.body_received(count)
            elif count:
                protocol.dataReceived(bytes(_SCRATCH[:count]))
            if end is not None:
                return end
            if count < (len(into) if target is not None else 1024):
                return None  # nothing more waits, nor is it likely to
        return None

    def let_ahead(self, count: int | None) -> None:
        """Part of :class:`~p2pd.net.rounds.Connection`."""
        if self.ahead is not None and self.connected and not self.disconnected:
            self.ahead.let(count)
            if self._wakes_at > self._most:
                self._wake_at(self._wakes_at)

    @property
    def _most(self) -> int:
        """Bytes to wait for at most: nobody waits for us because all that he may send ahead is here."""
        limit = self.ahead.limit if self.ahead is not None else None
        return limit // 2 if limit else WAKE_AT

    def _wake_at(self, left: int) -> None:
        least = min(left, self._most) if left > SHORT_BODY else 1
        if least != self._wakes_at:
            if self._widen and least > SHORT_BODY:
                # Waiting for so much makes the kernel's buffer that large, and it stays so.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _WINDOW)
                self._widen = False
            self._wakes_at = least
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def look_now(self) -> None:
        """Read what there is, though less than is usually waited for; to be called about once a second."""
        if self.connected and not self.disconnected:
            self._wake_at(0)

    def _fill(self, into: memoryview) -> tuple[int, Any]:
        """Bytes received into it, as long as there are some; the reason where that was the end."""
        got = 0
        while got < len(into):
            step = into[got : got + _READ]
            try:
                count = self.socket.recv_into(step)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                return got, main.CONNECTION_LOST
            if not count:
                return got, main.CONNECTION_DONE
            got += count
            self._got_bytes += count
            if count < len(step):
                break  # what comes next is better waited for
        return got, None


class FastServer(_Fast, tcp.Server):
    """The accepting side."""


class FastClient(_Fast, tcp.Client):
    """The dialling side."""


class FastPort(Port):
    """A listening port whose connections are :class:`FastServer`."""

    transport = FastServer

    def startListening(self) -> None:
        """As the original; what its connections need is there before the first of them comes."""
        rounds_of(self.reactor)
        super().startListening()


class FastConnector(tcp.Connector):
    """Dials as :class:`FastClient`."""

    def _makeTransport(self) -> FastClient:
        return FastClient(self.host, self.port, self.bindAddress, self, self.reactor)
