"""The files offered, by name, by path on disk and by file id. Plain data, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs

from p2pd.model import FileId
from p2pd.share.hashing import StatKey, StatRow
from p2pd.share.telling import Found


@attrs.frozen
class Entry:
    """A file offered. ``rel``: its path on disk; ``file_id``: None until it is hashed.

    ``piece_size`` (bytes) is that of ``file_id``; without one, the size that the file once
    came with and is to be hashed at, if any.
    """

    name: str
    rel: bytes
    key: StatKey
    file_id: FileId | None
    piece_size: int | None


_Row = tuple[bytes, StatRow, FileId | None, int | None]
"""An Entry without its name; why a plain tuple, see StatRow."""


class Catalog:
    """Entries and their ids. Of several paths with one name, the first one by bytes is offered."""

    def __init__(self, changed: Callable[[str, bool], None]) -> None:
        """``changed(name, quietly)`` is told of every change; quietly: nobody else needs to know."""
        self._changed = changed
        self._rows: dict[str, _Row] = {}
        self._names: dict[bytes, str] = {}
        self._twins: dict[str, dict[bytes, Found]] = {}
        # One name and piece size; a dict of them only where several files are equal, as empty ones are:
        # a thousand times a hundred such files must not take a thousand times a hundred steps each.
        self._holders: dict[FileId, tuple[str, int] | dict[str, int]] = {}
        self._more_ids: dict[str, tuple[FileId, ...]] = {}
        self._order: list[str] = []
        self._ordered = True

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, name: str) -> Entry | None:
        """The file of that name."""
        row = self._rows.get(name)
        return None if row is None else _entry(name, row)

    def by_rel(self, rel: bytes) -> Entry | None:
        """The file at that path, if it is the one offered under its name."""
        entry = self.get(self._names.get(rel, ""))
        return entry if entry is not None and entry.rel == rel else None

    def holder(self, file_id: FileId) -> tuple[str, int] | None:
        """The name of a file whose manifest, at that piece size, has this id."""
        held = self._holders.get(file_id)
        return next(iter(held.items())) if isinstance(held, dict) else held

    def ids(self, name: str) -> Sequence[FileId]:
        """All ids known of a name, at whatever piece size."""
        row = self._rows.get(name)
        more = self._more_ids.get(name, ())
        return more if row is None or row[2] is None else (row[2], *more)

    def entries(self) -> Iterator[Entry]:
        """Sorted by name, as it is now; what vanishes meanwhile is left out."""
        if not self._ordered:
            # Insertion order is nearly sorted, as the scan comes in order: 100,000 take 20 ms.
            self._order = sorted(self._rows)
            self._ordered = True
        for name in self._order:  # replaced, never changed
            row = self._rows.get(name)
            if row is not None:
                yield _entry(name, row)

    @property
    def problems(self) -> list[str]:
        """A sentence where names collide."""
        if not self._twins:
            return []
        count, name = sum(map(len, self._twins.values())), min(self._twins)
        return [
            f"{count} files are not offered because another one has the same name in another form of Unicode,"
            f" for example {name!a}."
        ]

    def put(self, found: Found, replace: bool = False) -> None:
        """A file is there; ``replace``: its id is to be the one given whatever was known of it."""
        name, current = found.name, self._rows.get(found.name)
        if current is not None and current[0] != found.rel:
            loser = found
            if found.rel < current[0]:
                loser = Found(current[0], name, StatKey(*current[1]), current[3], current[2])
                self._twins.get(name, {}).pop(found.rel, None)
            self._twins.setdefault(name, {})[loser.rel] = loser
            self._names[found.rel] = self._names[current[0]] = name
            if loser is found:
                return
        elif current is not None and current[1] == found.key.row and not replace:
            if current[2] is None and found.file_id is not None and found.piece_size is not None:
                self.add_id(_entry(name, current), found.file_id, found.piece_size, main=True)
            return
        self._forget_ids(name)
        self._rows[name] = (found.rel, found.key.row, found.file_id, found.piece_size)
        self._names[found.rel] = name
        if current is None:
            self._ordered = False
        if found.file_id is not None and found.piece_size is not None:
            self._hold(found.file_id, name, found.piece_size)
        had_id = current is not None and current[2] is not None
        self._changed(name, found.file_id is None and not had_id)

    def remove(self, rel: bytes) -> None:
        """The file at ``rel`` is gone; nothing happens where it is not known."""
        name = self._names.pop(rel, None)
        if name is None:
            return
        twins = self._twins.get(name, {})
        if self._rows[name][0] != rel:
            twins.pop(rel, None)
            if not twins:
                self._twins.pop(name, None)
            return
        self._forget_ids(name)
        del self._rows[name]
        self._ordered = False
        if twins:
            heir = twins.pop(min(twins))
            if not twins:
                del self._twins[name]
            self.put(heir)
        self._changed(name, False)

    def add_id(self, entry: Entry, file_id: FileId, piece_size: int, main: bool) -> None:
        """The file has this id at this piece size; ``main``: it is the one to offer unless asked."""
        row = self._rows.get(entry.name)
        if row is None or row[1] != entry.key.row or file_id in self.ids(entry.name):
            return
        self._hold(file_id, entry.name, piece_size)
        if main and row[2] is None:
            self._rows[entry.name] = (row[0], row[1], file_id, piece_size)
            self._changed(entry.name, False)
        else:
            self._more_ids[entry.name] = (*self._more_ids.get(entry.name, ()), file_id)

    def _hold(self, file_id: FileId, name: str, piece_size: int) -> None:
        held = self._holders.get(file_id)
        if held is None:
            self._holders[file_id] = (name, piece_size)
        elif isinstance(held, dict):
            held[name] = piece_size
        elif held[0] != name:
            self._holders[file_id] = {held[0]: held[1], name: piece_size}

    def _forget_ids(self, name: str) -> None:
        for file_id in self.ids(name):
            held = self._holders.get(file_id)
            if isinstance(held, dict):
                held.pop(name, None)
                if held:
                    continue
            elif held is None or held[0] != name:
                continue
            del self._holders[file_id]
        self._more_ids.pop(name, None)


def _entry(name: str, row: _Row) -> Entry:
    return Entry(name, row[0], StatKey(*row[1]), row[2], row[3])
