"""What this peer serves: the files of its share, and of those that are still coming what has come."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any, Protocol

import attrs

from p2pd.errors import NotFoundError, StorageError
from p2pd.fetch.announcing import Announcing
from p2pd.fetch.granting import Granting
from p2pd.fetch.runs import LONG_AT_ONCE, begun, whole_at_once
from p2pd.model import FileId, Manifest
from p2pd.pieces import Bitfield, format_parts
from p2pd.share.index import Entry, ShareIndex
from p2pd.wire import messages as m

SAMPLE = 128 * 1024
"""Bytes from one page of a file that is looked for in memory to the next."""


class Listener(Protocol):
    """A conversation, as far as it is told which pieces are here."""

    def send(self, message: m.Message) -> None:
        """Send a message."""


class Company(Listener, Protocol):
    """A conversation, as far as it is told what is here."""

    other: Any
    """Who is on the other side; None before it said so."""

    def asks_for(self, name: str) -> bool:
        """True while the other side asks for a file of that name."""

    def concerned(self, file_id: FileId) -> bool:
        """True where the other side is on that file, and to be told of further pieces."""

    def withdrawn(self, file_id: FileId) -> None:
        """A part of that file that was offered is not there any more."""


class PartState(Enum):
    """What has become of a part."""

    COMING = auto()
    DONE = auto()
    """It is a file of the share now."""
    GONE = auto()


@attrs.define(eq=False)
class Part:
    """A file that is coming in; ``held``, and ``first`` of it, which came of complete holders, are kept up
    to date, ``fd`` is open while it comes.
    """  # fmt: skip

    name: str
    """The one that it will have."""
    manifest: Manifest
    held: Bitfield
    first: Bitfield
    fd: Callable[[], int]
    long_at_once: Callable[[], int] = lambda: LONG_AT_ONCE
    """How many of its pieces to send at once where they are long."""
    state: PartState = PartState.COMING
    announcing: Announcing = attrs.field(init=False)
    file_id: FileId = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.announcing = Announcing(self.manifest.piece_size)
        self.file_id = self.manifest.file_id


@attrs.define(eq=False)
class Copy:
    """A file that is open to be sent; whoever opened it calls :meth:`close`."""

    name: str
    manifest: Manifest
    fd: int
    _index: ShareIndex
    _entry: Entry | None  # None: a part
    _about: Callable[[], int]
    """How many machines may be on it."""
    _part: Part | None = None
    _can_tell: bool = True
    """The file system says whether something is in memory."""

    @property
    def held(self) -> Bitfield | None:
        """The pieces that can be sent; None: all."""
        return self._part.held if self._part is not None else None

    @property
    def first(self) -> Bitfield | None:
        """Those of them that came of a complete holder."""
        return self._part.first if self._part is not None else None

    @property
    def long_at_once(self) -> int:
        """How many of its pieces to send at once where they are long."""
        if self._part is not None:
            return self._part.long_at_once()
        return whole_at_once(self.manifest.count, self._about())

    def in_memory(self, offset: int, length: int) -> bool:
        """True where sendfile of this range would not wait for the disk, by a sample of its pages."""
        buffer = bytearray(1)
        last = offset + length - 1
        for at in (*range(offset, last, SAMPLE), last) if self._can_tell else ():
            try:
                os.preadv(self.fd, [buffer], at, os.RWF_NOWAIT)
            except BlockingIOError:
                return False
            except OSError as error:
                # One that cannot tell, such as tmpfs, is not asked again and again.
                self._can_tell = error.errno != errno.EOPNOTSUPP
                return True
        return True

    def still(self) -> bool:
        """True while it is what was offered."""
        part = self._part
        if part is not None:
            if part.state is not PartState.DONE:
                return part.state is PartState.COMING
            # It got its name: from now on it is as any other file, that somebody may change.
            self._entry, self._part = self._index.offered(self.manifest.file_id), None
        entry = self._entry
        return entry is not None and self._index.still(self.fd, entry.key, entry.rel)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


class Stock:
    """See the module. All methods are for the reactor thread.

    ``company``: all conversations; ``later(seconds, f)`` calls ``f``; ``about``: how many
    machines may want what is here.
    """

    def __init__(
        self,
        index: ShareIndex,
        granting: Granting,
        *,
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        company: Callable[[], Iterable[Company]],
        about: Callable[[], int],
    ) -> None:
        self._index = index
        self._granting = granting
        self._now = now
        self._later = later
        self._company = company
        self._about = about
        self._parts: dict[str, Part] = {}
        self._callbacks: list[Callable[[str], None]] = []

    def subscribe(self, callback: Callable[[str], None]) -> None:
        """Have ``callback(name)`` called when what is offered under a name is another now."""
        self._callbacks.append(callback)
        self._index.subscribe(callback)

    def unsubscribe(self, callback: Callable[[str], None]) -> None:
        """The reverse of :meth:`subscribe`."""
        self._callbacks.remove(callback)
        self._index.unsubscribe(callback)

    def who_asks(self, name: str) -> list[Any]:
        """Who is on the other side of the conversations on which a file of that name is asked for."""
        return [each.other for each in self._company() if each.other is not None and each.asks_for(name)]

    # What is served

    def part(self, name: str) -> Part | None:
        """What has come of a file of that name, where that is anything."""
        part = self._parts.get(name)
        return part if part is not None and len(part.held) else None

    def name_of(self, file_id: FileId) -> str | None:
        """Under which name that content is offered here."""
        entry = self._index.offered(file_id)
        if entry is not None:
            return entry.name
        part = self._part_of(file_id)
        return part.name if part is not None else None

    def open(self, file_id: FileId) -> Copy:
        """That content, whole or in part. NotFoundError, ChangedError, StorageError."""
        entry = self._index.offered(file_id)
        if entry is not None:
            fd, manifest, _ = self._index.open(file_id)
            return Copy(entry.name, manifest, fd, self._index, entry, self._about)
        part = self._part_of(file_id)
        if part is None:
            raise NotFoundError("not offered here any more")
        try:
            fd = os.dup(part.fd())
        except OSError as error:
            raise StorageError(f"cannot open {part.name}: {error.strerror}") from error
        return Copy(part.name, part.manifest, fd, self._index, None, self._about, part)

    def manifest(self, file_id: FileId) -> Manifest:
        """The piece list of what is offered. NotFoundError, ChangedError, StorageError."""
        if self._index.offered(file_id) is None:
            part = self._part_of(file_id)
            if part is not None:
                return part.manifest
        fd, manifest, _ = self._index.open(file_id)
        os.close(fd)
        return manifest

    def look_again(self, file_id: FileId) -> None:
        """A file of the share is not what was offered: it is looked at anew. Errors as of :meth:`open`."""
        os.close(self._index.open(file_id)[0])

    def _part_of(self, file_id: FileId) -> Part | None:
        for part in self._parts.values():
            if part.file_id == file_id and len(part.held):
                return part
        return None

    # What comes

    def begin(self, part: Part) -> None:
        """A file is coming in; what is held of it is offered from now on."""
        self._parts[part.name] = part
        if len(part.held):
            self._tell_changed(part.name)

    def gained(self, part: Part, count: int) -> None:
        """So many more pieces are held now."""
        now = self._now()
        self._granting.gained(part.file_id, now)
        if len(part.held) == count:
            self._tell_changed(part.name)  # the first ones: it was not offered before
        due = part.announcing.gained(now, count, begun=begun(part.held))
        if due is not None:
            self._later(due, lambda: self.announce(part))

    def announce(self, part: Part) -> None:
        """Tell those on the same file of the pieces that they have not been told of."""
        if part.state is PartState.GONE:
            return
        listeners = [each for each in self._company() if each.concerned(part.file_id)]
        part.announcing.due(listeners, self._now())
        for each in listeners:
            _tell(part, each)

    def catch_up(self, listener: Listener, file_id: FileId) -> None:
        """``listener``, who is on that file, is about to be sent something: what is new comes with it."""
        for part in self._parts.values():
            if part.file_id == file_id:
                _tell(part, listener, along=True)

    def offered(self, listener: Listener, part: Part) -> None:
        """``listener`` is told of all that is held of it, otherwise."""
        part.announcing.knows(listener, part.held.mask)

    def end(self, part: Part, *, done: bool) -> None:
        """It comes no more; ``done``: it is a file of the share, and listed."""
        part.state = PartState.DONE if done else PartState.GONE
        if self._parts.get(part.name) is part:
            del self._parts[part.name]
        if not done and len(part.held):
            for each in list(self._company()):
                each.withdrawn(part.file_id)
            self._tell_changed(part.name)

    def _tell_changed(self, name: str) -> None:
        for callback in list(self._callbacks):
            callback(name)


def _tell(part: Part, listener: Listener, *, along: bool = False) -> None:
    news = part.announcing.news(listener, part.held.mask, along=along)
    for text in format_parts(news, m.MAX_PIECES_TEXT) if news else ():
        listener.send(m.HavePiece(part.file_id, text))
