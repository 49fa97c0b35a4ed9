"""What the kernel counts of a TCP connection: exact, where what was read comes in frames."""

from __future__ import annotations

import socket
import struct

from p2pd.fetch.probing import Traffic

_LENGTH = 152
_RECEIVED = 128
_MIN_RTT = 148
"""Offsets in `struct tcp_info` of linux/tcp.h: `tcpi_bytes_received`, `tcpi_min_rtt`."""
_NONE = 2**32 - 1


def traffic(connection: socket.socket) -> Traffic | None:
    """What came over a connection; None where the system does not say, or it is not TCP."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, option, _LENGTH)
    except OSError:
        return None
    if len(info) < _LENGTH:
        return None
    (received,) = struct.unpack_from("=Q", info, _RECEIVED)
    (latency,) = struct.unpack_from("=I", info, _MIN_RTT)
    return Traffic(received, 0.0 if latency == _NONE else latency / 1e6)
