"""The table of active peers on the console, whenever it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from p2pd.model import PeerInfo
from p2pd.net.addresses import join_host_port
from p2pd.text import escape

log = Logger()

SECONDS_PER_ROW = 0.001
"""A table of n rows is printed at most every n of these, so that a storm of joins cannot drown the log."""
ROWS = 10_000
"""Rows printed at this pace, before"""
ROWS_PER_SECOND = 50
"""is all that there is in the long run: somebody joins and leaves all the time."""


def table_lines(peers: Sequence[tuple[PeerInfo, float]]) -> Iterator[str]:
    """The table, one line per row; each peer with the Unix time since when it is here."""
    if not peers:
        yield "no active peers"
        return
    yield "1 active peer:" if len(peers) == 1 else f"{len(peers)} active peers:"
    rows = [
        (
            escape(info.name),
            escape(join_host_port(info.host, info.port)),
            f"since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M:%S}",
        )
        for info, since in peers
    ]
    names = max(len(name) for name, _address, _since in rows)
    addresses = max(len(address) for _name, address, _since in rows)
    for name, address, since_text in rows:
        yield f"  {name:<{names}}  {address:<{addresses}}  {since_text}"


class Table:
    """Prints what ``peers`` gives: call :meth:`changed` when that changed, :meth:`stop` at the end."""

    def __init__(self, clock: IReactorTime, peers: Callable[[], Sequence[tuple[PeerInfo, float]]]) -> None:
        self._clock = clock
        self._peers = peers
        self._not_before = 0.0
        self._left = float(ROWS)
        self._then = clock.seconds()
        self._call: IDelayedCall | None = None

    def changed(self) -> None:
        """Print now, or soon where a long table was printed just now."""
        if self._call is None:
            wait = self._not_before - self._clock.seconds()
            if wait > 0:
                self._call = self._clock.callLater(wait, self._print)
            else:
                self._print()

    def stop(self) -> None:
        """Print no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _print(self) -> None:
        self._call = None
        peers = self._peers()
        now, rows = self._clock.seconds(), len(peers) + 1
        self._left = min(ROWS, self._left + (now - self._then) * ROWS_PER_SECOND) - rows
        self._then = now
        self._not_before = now + max(SECONDS_PER_ROW * len(peers), -self._left / ROWS_PER_SECOND)
        for line in table_lines(peers):
            log.info("{line}", line=line, unlimited=True)
