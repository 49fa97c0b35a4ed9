"""The list and its changes as lines, encoded once for all who see the same. Pure.

Rows are encoded once when they come and kept as text, because a storm of joins
sends the whole list to every newcomer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from p2pd.manager.registry import Batch, Changed, Registry
from p2pd.model import PeerId, PeerInfo
from p2pd.wire.codec import encode
from p2pd.wire.messages import Changes, PeerRow

MAX_PAGE = 60_000
"""Bytes of rows in one `peers` line; the line's own words fit into the rest of its 64 KiB."""


class Pages:
    """What to send to the peers of each machine; tell it every batch that ``registry`` flushes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._rows: dict[PeerId, tuple[PeerInfo, str]] = {}
        self._lists: dict[str, bytes] = {}
        self._special: set[str] = set()

    def flushed(self, batches: Sequence[Batch]) -> None:
        """The list is another one now."""
        if not batches:
            return
        self._lists.clear()
        self._special = self._registry.special_machines()
        for batch in batches:
            for change in (batch.public, *batch.by_machine.values()):
                for peer in change.left:
                    self._rows.pop(peer, None)

    def whole(self, machine: str) -> bytes:
        """The whole list as `peers` lines, for the peers of ``machine``."""
        audience = machine if machine in self._special else "*"
        lines = self._lists.get(audience)
        if lines is None:
            lines = self._lists[audience] = self._paged(self._registry.rows(machine))
        return lines

    def _paged(self, rows: Iterable[PeerInfo]) -> bytes:
        pages: list[list[str]] = [[]]
        size = 0
        for info in rows:
            text = self._row(info)
            size += len(text) + 2
            if size > MAX_PAGE and pages[-1]:
                pages.append([])
                size = len(text) + 2
            pages[-1].append(text)
        lines = []
        for number, page in enumerate(pages):
            last = "true" if number == len(pages) - 1 else "false"
            head = f'peers {{"serial": {self._registry.serial}, "page": {number}, "last": {last}, "rows": ['
            lines.append(f"{head}{', '.join(page)}]}}\n")
        return "".join(lines).encode("ascii")

    def _row(self, info: PeerInfo) -> str:
        kept = self._rows.get(info.id)
        if kept is None or kept[0] != info:
            row = {"id": info.id, "name": info.name, "host": info.host, "port": info.port}
            kept = self._rows[info.id] = (info, json.dumps(row))
        return kept[1]


class ChangeLines:
    """The lines of some batches, encoded once for each audience; for one flush."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._special = {machine for batch in batches for machine in batch.by_machine}
        self._lines: dict[str, bytes] = {}

    def of(self, machine: str) -> bytes:
        """What peers of ``machine`` are sent."""
        audience = machine if machine in self._special else "*"
        lines = self._lines.get(audience)
        if lines is None:
            each = (_change_line(batch.serial, batch.seen_by(audience)) for batch in self._batches)
            lines = self._lines[audience] = b"".join(each)
        return lines


def _change_line(serial: int, change: Changed) -> bytes:
    rows = [PeerRow(info.id, info.name, info.host, info.port) for info in change.joined]
    return encode(Changes(serial, rows, list(change.left)))
