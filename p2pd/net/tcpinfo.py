"""What the kernel counts of a TCP connection: exact, where what was read comes in frames."""

from __future__ import annotations

import socket
import struct

import attrs

from p2pd.fetch.probing import Traffic

_ADVMSS = 84
_RECEIVED = 128
_MIN_RTT = 148
_RCV_WND = 232
"""Offsets in `struct tcp_info` of linux/tcp.h: `tcpi_advmss`, `tcpi_bytes_received`, `tcpi_min_rtt`, and,
since Linux 6.2, `tcpi_rcv_wnd`."""
_LEAST = _MIN_RTT + 4
_LENGTH = _RCV_WND + 4
_NONE = 2**32 - 1


@attrs.frozen
class Incoming:
    """What comes over a connection, and may: ``received`` bytes in all, whether read or not; ``latency``:
    seconds that a round trip takes at least, 0: not known; ``segment``: bytes of one at most; ``promised``:
    bytes that may come, as the other side was told last, None: not known.
    """

    received: int
    latency: float
    segment: int
    promised: int | None


def incoming(connection: socket.socket) -> Incoming | None:
    """None where the system does not say, or it is not TCP, or closed."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, option, _LENGTH)
    except OSError:
        return None
    if len(info) < _LEAST:
        return None
    (segment,) = struct.unpack_from("=I", info, _ADVMSS)
    (received,) = struct.unpack_from("=Q", info, _RECEIVED)
    (latency,) = struct.unpack_from("=I", info, _MIN_RTT)
    promised = struct.unpack_from("=I", info, _RCV_WND)[0] if len(info) >= _LENGTH else None
    return Incoming(received, 0.0 if latency == _NONE else latency / 1e6, segment, promised)


def traffic(connection: socket.socket) -> Traffic | None:
    """What came over a connection; None as of :func:`incoming`."""
    told = incoming(connection)
    return Traffic(told.received, told.latency) if told is not None else None
