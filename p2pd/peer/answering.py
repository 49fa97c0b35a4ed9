"""Answers of a conversation: who has a file, and its piece list. Reqs stand, and are answered again."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from p2pd.errors import P2PError, ProtocolError, StorageError
from p2pd.fetch.neighbours import ALL_BELOW
from p2pd.model import FileId, Manifest, PeerId
from p2pd.peer.activity import Activity
from p2pd.peer.stock import Stock
from p2pd.pieces import MAX_PIECES, piece_count
from p2pd.share.index import ShareIndex
from p2pd.share.paths import is_canonical
from p2pd.text import escape
from p2pd.wire import messages as m
from p2pd.wire.fields import sentence

MAX_STANDING = 1024
"""Reqs that a conversation may have standing; the oldest one stops standing."""
MAX_ANSWERING = 64
"""Answers under way in one conversation before its further requests wait."""
LEAST_PIECE = 1024
MAX_PIECE_SIZES = 8
"""Piece sizes that a conversation may ask for: each costs hashing the whole file again."""
HASHING_EVERY = 0.5

log = Logger("p2pd.peer")


class Link(Protocol):
    """What this half needs of its conversation."""

    other: Any

    @property
    def name(self) -> str:
        """The other's name, safe to print."""

    def said(self, file_id: FileId) -> int:
        """The pieces of that file that the other side offered, as far as it was asked (a mask)."""

    def send(self, message: m.Message, body: bytes = b"") -> None:
        """Send a message and its body."""

    def slices_ready(self) -> None:
        """There is something for next_slice."""

    def hold(self, why: str) -> None:
        """Read nothing more until released."""

    def release(self, why: str) -> None:
        """Undo one hold."""

    def answered(self) -> None:
        """Something was finished."""


class Library(Protocol):
    """What is answered from."""

    index: ShareIndex
    stock: Stock
    activity: Activity

    def later(self, seconds: float) -> Deferred[None]:
        """Fires after so many seconds."""

    def listed(self) -> Collection[PeerId]:
        """Whom the manager lists now, by their ids: all of them know of each other."""


class Answering:
    """See the module."""

    def __init__(self, link: Link, shop: Library) -> None:
        self._link = link
        self._shop = shop
        self._standing: dict[int, m.Req] = {}
        self._by_name: dict[str, set[int]] = {}
        self._asked_again: set[int] = set()
        self._told: dict[int, FileId] = {}  # reqs to which part of a file was offered
        self._piece_sizes: set[int] = set()
        self._hashing = 0
        self._tasks: set[Deferred[None]] = set()
        self._answers: dict[int, m.Req] = {}
        self._ended = False

    def handlers(self) -> dict[type[m.Message], Callable[[Any], None]]:
        """Which messages this part takes."""
        return {m.Req: self._on_req, m.Withdraw: self._on_withdraw, m.ManifestReq: self._on_manifest}

    @property
    def under_way(self) -> bool:
        """True while an answer is not yet sent."""
        return bool(self._tasks)

    @property
    def standing(self) -> bool:
        """True while a req stands."""
        return bool(self._standing)

    def told(self, file_id: FileId) -> bool:
        """True where part of that file was offered to a `req` that stands."""
        return file_id in self._told.values()

    def asks(self, name: str) -> bool:
        """True while a `req` for that name stands."""
        return name in self._by_name

    # Who has it?

    def _on_req(self, req: m.Req) -> None:
        if not is_canonical(req.name):
            raise ProtocolError("req: name: not a canonical name")
        if req.req in self._standing:
            raise ProtocolError(f"req: {req.req} is used")
        if len(self._standing) >= MAX_STANDING:
            self._withdraw(next(iter(self._standing)))
        if not self._standing:
            self._shop.stock.subscribe(self._changed)
        self._standing[req.req] = req
        self._by_name.setdefault(req.name, set()).add(req.req)
        self._start_answer(req)

    def _on_withdraw(self, withdraw: m.Withdraw) -> None:
        self._withdraw(withdraw.req)

    def _withdraw(self, number: int) -> None:
        req = self._standing.pop(number, None)
        if req is None:
            return
        self._told.pop(number, None)
        numbers = self._by_name[req.name]
        numbers.discard(number)
        if not numbers:
            del self._by_name[req.name]
        if not self._standing:
            self._shop.stock.unsubscribe(self._changed)

    def forget_standing(self) -> None:
        """The other side asks nothing more; answers under way are finished."""
        for number in list(self._standing):
            if number not in self._answers:
                self._withdraw(number)

    def _changed(self, name: str) -> None:
        for number in list(self._by_name.get(name, ())):
            if number in self._answers:
                self._asked_again.add(number)
            else:
                self._start_answer(self._standing[number])

    def _start_answer(self, req: m.Req) -> None:
        # Noted before it begins: what is known already is answered at once.
        self._answers[req.req] = req
        self.spawn(self._answer(req))

    def spawn(self, work: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        """Work that counts as an answer under way."""
        task = ensureDeferred(work)
        self._tasks.add(task)
        self._weigh()

        def ended(result: Any) -> None:
            self._tasks.discard(task)
            self._weigh()
            self._link.answered()

        def failed(failure: Failure) -> None:
            # To be called off is no fault: that is how :meth:`end` ends what still waits.
            if not (self._ended and failure.check(CancelledError)):
                log.failure("answering {name}", failure, name=self._link.name)

        task.addErrback(failed)
        task.addBoth(ended)
        return task

    def _weigh(self) -> None:
        """Many answers under way: read no further requests. One that waits for hashing does not count:
        it may take long, and other things than requests come on the same conversation.
        """  # fmt: skip
        busy = len(self._tasks) - self._hashing
        if busy >= MAX_ANSWERING:
            self._link.hold("answers")
        elif busy < MAX_ANSWERING // 2:
            self._link.release("answers")

    async def _answer(self, req: m.Req) -> None:
        try:
            while True:
                self._asked_again.discard(req.req)
                answer = await self._find(req)
                if self._ended or self._standing.get(req.req) is not req:
                    return
                if req.req not in self._asked_again:
                    self._say(req, answer)
                    return
        finally:
            if self._answers.get(req.req) is req:
                del self._answers[req.req]

    def _say(self, req: m.Req, answer: m.Message) -> None:
        self._told.pop(req.req, None)
        part = self._shop.stock.part(req.name) if isinstance(answer, m.NotHave) else None
        if part is None:
            if isinstance(answer, m.Have):
                answer = attrs.evolve(answer, others=self._others(req.name))
            self._link.send(answer)
            return
        self._shop.stock.offered(self._link, part)
        manifest, held = part.manifest, bytes(part.held)
        self._told[req.req] = manifest.file_id
        self._shop.activity.note("asks for", None, part.name, f"({self._link.name})")
        self._shop.activity.note("sent", None, part.name, f"to {self._link.name}")
        self._link.send(
            m.Have(
                req.req,
                req.name,
                manifest.size,
                manifest.piece_size,
                manifest.file_id,
                len(held),
                self._others(req.name),
            ),
            held,
        )

    def _others(self, name: str) -> list[m.PeerRow]:
        """Some others who ask for it, at random; none that it knows from the manager, and asks anyway."""
        known = self._shop.listed()
        if len(known) >= ALL_BELOW or self._link.other.id not in known:
            known = ()
        rows = [
            m.PeerRow(other.id, other.name, other.host, other.port)
            for other in self._shop.stock.who_asks(name)
            if other is not self._link.other and other.port and other.id not in known
        ]
        return random.sample(rows, min(len(rows), m.MAX_OTHERS))

    async def _find(self, req: m.Req) -> m.Message:
        index = self._shop.index
        not_have = m.NotHave(req.req, req.name)
        try:
            entry = await index.find(req.name)
        except StorageError as error:
            log.warn("{file}: {why}", file=escape(req.name), why=escape(error.message))
            return not_have
        if entry is None:
            return not_have
        wanted = self._piece_size(req, entry.key.size)
        hashed = ensureDeferred(_as_coroutine(index.manifest(req.name, wanted)))
        result: list[Manifest] = []
        failed: list[bool] = []
        hashed.addCallbacks(result.append, lambda failure: failed.append(True))
        try:
            while not result and not failed:
                # Hashing a large file takes a while: say so, so that the asker waits.
                progress = index.hashing_progress(req.name) or (0, entry.key.size)
                if self._ended or self._standing.get(req.req) is not req:
                    return not_have
                self._link.send(m.Hashing(req.req, *progress))
                self._hashing += 1
                self._weigh()
                try:
                    await _first(hashed, self._shop.later(HASHING_EVERY))
                finally:
                    self._hashing -= 1
        finally:
            hashed.cancel()  # no effect on one that has ended, nor on others who wait for the same
        if failed:
            return not_have
        manifest = result[0]
        return m.Have(req.req, req.name, manifest.size, manifest.piece_size, manifest.file_id, 0)

    def _piece_size(self, req: m.Req, file_size: int) -> int:
        """The one asked for; 0, the usual one, where it does not fit a file of this size, or where
        somebody has us hash at one size after the other.
        """  # fmt: skip
        size = req.piece_size
        if size < LEAST_PIECE or piece_count(file_size, size) > MAX_PIECES:
            return 0
        if size not in self._piece_sizes and len(self._piece_sizes) >= MAX_PIECE_SIZES:
            return 0
        self._piece_sizes.add(size)
        return size

    # The piece list

    def _on_manifest(self, asked: m.ManifestReq) -> None:
        self.spawn(self._send_manifest(FileId(asked.file)))

    async def _send_manifest(self, file_id: FileId) -> None:
        name = self._shop.stock.name_of(file_id) or "a file that is not here"
        self._shop.activity.note("asks for", None, name, f"({self._link.name})")
        try:
            manifest = self._shop.stock.manifest(file_id)
        except P2PError as error:
            self._link.send(m.Gone(file_id, sentence(error.message)))
            return
        self._link.send(
            m.PieceList(file_id, manifest.size, manifest.piece_size, len(manifest.hashes)), manifest.hashes
        )
        self._shop.activity.note("sent", None, name, f"to {self._link.name}")

    def end(self) -> None:
        """The conversation is over."""
        self._ended = True
        if self._standing:
            self._shop.stock.unsubscribe(self._changed)
        self._standing.clear()
        self._told.clear()
        self._by_name.clear()
        for task in list(self._tasks):
            task.cancel()


async def _as_coroutine(awaitable: Any) -> Any:
    return await awaitable


def _first(*waited: Deferred[Any]) -> Deferred[None]:
    """Fires when any of them does; none is consumed or cancelled by it."""
    either: Deferred[None] = Deferred()

    def fired(result: Any) -> Any:
        if not either.called:
            either.callback(None)
        return result

    for each in waited:
        each.addBoth(fired)
    return either
