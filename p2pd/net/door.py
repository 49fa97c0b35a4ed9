"""How many may come in: in all, from one address, and before they said who they are. Pure."""

from __future__ import annotations

import ipaddress
from collections import Counter
from functools import lru_cache

import attrs

from p2pd.errors import UsageError
from p2pd.net.addresses import canonical_host, is_loopback

MAX_PENDING = 64
"""Connections that may be open before they introduced themselves."""


def share(limit: int) -> int:
    """What one address may have of ``limit``: never the last quarter, nor the last one."""
    return max(1, limit - max(1, limit // 4))


@attrs.define(eq=False)
class Visit:
    """A connection that was let in. Tell it :meth:`introduced` and, once, :meth:`left`."""

    _door: Door
    _address: str
    _pending: bool = True
    _inside: bool = True

    def introduced(self) -> None:
        """It said who it is."""
        if self._pending:
            self._pending = False
            self._door._count(self._address, 0, -1)

    def left(self) -> None:
        """It is over."""
        self.introduced()
        if self._inside:
            self._inside = False
            self._door._count(self._address, -1, 0)


class Door:
    """Counts who is in; ``limit`` connections in all, which may be changed at any time.

    One address has at most three quarters of them (:func:`share`), and of those that are
    not yet introduced, so that there is always room for others. An IPv6 address counts as
    its /64 network, which is what one machine is given. Loopback may have all: that is this
    machine itself, often with many peers on it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.turned_away = 0
        """How often somebody heard that he may not come in."""
        self._inside: Counter[str] = Counter()
        self._pending: Counter[str] = Counter()
        self._inside_all = self._pending_all = 0

    def __len__(self) -> int:
        return self._inside_all

    def refusal(self, host: str, *, listening: bool = True) -> str | None:
        """Why no further connection from ``host`` is taken, after "this peer is"; None: come in.

        ``listening`` False: nobody can introduce himself yet, so those who wait are not counted.
        """
        why = self._why_not(_counted_as(host), listening)
        self.turned_away += why is not None
        return why

    def _why_not(self, address: str, listening: bool) -> str | None:
        if self._inside_all >= self.limit:
            return f"full ({self.limit} connections)"
        if address and self._inside[address] >= share(self.limit):
            return f"full for {address} ({share(self.limit)} connections from one address)"
        if listening and (
            self._pending_all >= MAX_PENDING or (address and self._pending[address] >= share(MAX_PENDING))
        ):
            return f"busy ({self._pending_all} connections have not said who they are): try again"
        return None

    def enter(self, host: str) -> Visit:
        """Count a connection from ``host``."""
        address = _counted_as(host)
        self._count(address, 1, 1)
        return Visit(self, address)

    def _count(self, address: str, inside: int, pending: int) -> None:
        self._inside_all += inside
        self._pending_all += pending
        if address:
            for counter, change in ((self._inside, inside), (self._pending, pending)):
                counter[address] += change
                if not counter[address]:
                    del counter[address]


@lru_cache(4096)
def _counted_as(host: str) -> str:
    """What is counted as one address; empty for loopback, and for what is no address."""
    try:
        text = canonical_host(host)
    except UsageError:
        return ""
    if is_loopback(text):
        return ""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and not address.is_link_local:
        return str(ipaddress.IPv6Network((int(address), 64), strict=False))
    return text
