"""Addresses in one spelling, so that two of them are the same machine when they are equal.

No reactor here; only :func:`listen_hosts`, :func:`resolve` and
:func:`is_own` touch the network, each with one quick system call (a host name
that needs a name server takes as long as that does: start-up only).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import closing
from functools import lru_cache

from p2pd.errors import UsageError

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_SCOPE = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)
LOCALHOST = "localhost"
_REMEMBERED = 4096
"""Addresses: in a swarm all name the same ones, and parsing one takes longer than all else in a row."""


@lru_cache(_REMEMBERED)
def canonical_host(text: str) -> str:
    """The one spelling of an IP address: ``::ffff:10.0.0.5`` is ``10.0.0.5``, ``FE80::1`` ``fe80::1``.

    A scope id is kept for link-local addresses, where it matters, and dropped
    elsewhere. UsageError for what is no address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise UsageError(f"{text!r} is not an IP address") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if address.scope_id is not None:
            bare = str(ipaddress.IPv6Address(int(address)))
            if not address.is_link_local:
                return bare
            if _SCOPE.fullmatch(address.scope_id) is None:
                raise UsageError(f"{text!r} is not an IP address")
            return f"{bare}%{address.scope_id}"
    return str(address)


@lru_cache(_REMEMBERED)
def is_loopback(host: str) -> bool:
    """True for 127.0.0.0/8 and ::1, in any spelling; False for what is no address."""
    try:
        return ipaddress.ip_address(canonical_host(host)).is_loopback
    except UsageError:
        return False


def is_wildcard(host: str) -> bool:
    """True for 0.0.0.0 and ::, in any spelling; False for what is no address."""
    try:
        return ipaddress.ip_address(canonical_host(host)).is_unspecified
    except UsageError:
        return False


@lru_cache(_REMEMBERED)
def is_dialable(host: str) -> bool:
    """True for a canonical address that one machine can have: no wildcard, multicast or broadcast."""
    try:
        if canonical_host(host) != host:
            return False
    except UsageError:
        return False
    address = ipaddress.ip_address(host)
    return not (address.is_unspecified or address.is_multicast or host == "255.255.255.255")


def is_ipv6(host: str) -> bool:
    """True for a canonical IPv6 address."""
    return ":" in host


def can_bind(host: str, port: int = 0) -> bool:
    """Whether this machine lets a TCP socket be bound to ``host``."""
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        with closing(socket.socket(family, kind, protocol)) as trial:
            trial.bind(address)
    except OSError:
        return False
    return True


def is_own(host: str) -> bool:
    """Whether ``host`` is an address of this machine (also any loopback; never a wildcard)."""
    return is_loopback(host) or (not is_wildcard(host) and can_bind(host))


def resolve(text: str) -> str:
    """``text`` as a canonical address; a host name is looked up (blocking). UsageError for neither."""
    try:
        return canonical_host(text)
    except UsageError:
        pass
    try:
        found = socket.getaddrinfo(text, None, type=socket.SOCK_STREAM)
        return canonical_host(str(found[0][4][0]))
    except (OSError, UnicodeError, IndexError):
        raise UsageError(f"{text!r} is neither an IP address nor the name of a machine") from None


def listen_hosts(option: str) -> list[str]:
    """The canonical addresses that ``--host`` stands for.

    ``localhost`` is 127.0.0.1, and ::1 where there is one; else an address, or
    a host name's first address. UsageError for anything else.
    """
    if option == LOCALHOST:
        return [host for host in ("127.0.0.1", "::1") if can_bind(host)] or ["127.0.0.1"]
    return [resolve(option)]


def parse_port(text: str, *, low: int = 0) -> int:
    """``low``..65535 in ASCII digits; UsageError otherwise."""
    if _PORT.fullmatch(text) is None or not low <= int(text) <= 65535:
        raise UsageError(f"{text!r} is not a port number from {low} to 65535")
    return int(text)


def split_host_port(text: str) -> tuple[str, int]:
    """``localhost:12000`` or ``[::1]:12000`` in two; the host is a name or a canonical address.

    UsageError for anything else, also for an IPv6 address without brackets
    and for port 0, which nobody can dial.
    """
    host, colon, port_text = text.rpartition(":")
    if not colon or not host:
        raise UsageError(f"{text!r} is not HOST:PORT")
    port = parse_port(port_text, low=1)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not is_ipv6(host):
            raise UsageError(f"{text!r}: only an IPv6 address stands in brackets")
        return canonical_host(host), port
    if ":" in host:
        raise UsageError(f"{text!r}: an IPv6 address stands in brackets, as in [::1]:12000")
    try:
        return canonical_host(host), port
    except UsageError:
        if re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})", host, re.ASCII) is None:
            raise UsageError(f"{host!r} is not a host") from None
        return host, port


def join_host_port(host: str, port: int) -> str:
    """``10.0.0.5:7001``, ``[::1]:7001``: what :func:`split_host_port` takes."""
    return f"[{host}]:{port}" if is_ipv6(host) else f"{host}:{port}"
