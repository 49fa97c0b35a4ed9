"""The asking half of a conversation: reqs, piece lists, grants taken and the ranges that come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from p2pd.errors import ChangedError, NoSourcesError, P2PError, ProtocolError
from p2pd.fetch.picker import Run
from p2pd.model import FileId, Manifest, Offer, PeerId, PeerInfo
from p2pd.net.addresses import is_dialable, is_loopback
from p2pd.peer.receiving import RangeSink
from p2pd.pieces import HASH_SIZE, MAX_PIECES, Bitfield, piece_count
from p2pd.wire import messages as m
from p2pd.wire.codec import Body


class Asker(Protocol):
    """Who asked by a `req`: told every answer, also later ones."""

    def offered(self, source: Fetching, offer: Offer, have: Bitfield | None) -> None:
        """`have`; ``have`` None: all pieces."""

    def not_have(self, source: Fetching) -> None:
        """`not have`."""

    def hashing(self, source: Fetching, done: int, size: int) -> None:
        """It has the file, and hashes it: bytes done, size."""

    def hinted(self, source: Fetching, infos: Sequence[PeerInfo]) -> None:
        """These are on the file too, it says."""

    def lost(self, source: Fetching) -> None:
        """The conversation is over."""


class Taker(Protocol):
    """Who said `want` for a file."""

    def granted(self, source: Fetching, grant: int, limit: int, named: Run | None) -> bool:
        """True where it was used, by ``get``. ``named``: it is for these pieces only.

        False: he wants none, for a grant of any pieces until he says `want` again.
        """

    def puts_off(self, source: Fetching) -> bool:
        """True where a grant that it need not give is not used: enough is on its way."""

    def has(self, source: Fetching, mask: int) -> None:
        """It announces pieces, see :func:`p2pd.pieces.mask_of`. IndexError for one out of range."""

    def cancelled(self, source: Fetching, grant: int) -> None:
        """Nothing more comes of this grant."""

    def gone(self, source: Fetching, why: str) -> None:
        """It does not serve this content any more."""

    def misbehaved(self, source: Fetching) -> None:
        """It broke the protocol; the conversation is being closed."""


class Link(Protocol):
    """What this half needs of its conversation."""

    other: Any

    @property
    def name(self) -> str:
        """The other's name, safe to print."""

    @property
    def unread(self) -> bool:
        """True while we do not read what the other side sends, for reasons that are not its own."""

    def send(self, message: m.Message, body: bytes = b"") -> None:
        """Send a message and its body."""

    def asks_for(self, name: str) -> bool:
        """True while the other side asks for a file of that name."""

    def hold(self, why: str) -> None:
        """Read nothing more until released."""

    def release(self, why: str) -> None:
        """Undo one :meth:`hold`."""


@attrs.define(eq=False)
class _Asked:
    name: str
    asker: Asker
    piece_size: int
    file_id: FileId | None = None
    have: Bitfield | None = None
    """What was offered in part, kept up to date."""


@attrs.define(eq=False)
class _ManifestWait:
    offer: Offer
    waiting: list[Deferred[Manifest]]
    hashes: bytearray


class Fetching:
    """See the module."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._asked: dict[int, _Asked] = {}
        self._next_req = 1
        self._manifests: dict[FileId, _ManifestWait] = {}
        self._takers: dict[FileId, dict[Taker, int]] = {}
        self._wanted: dict[FileId, int] = {}  # as the other side knows it
        self._sinks: dict[int, tuple[Taker, RangeSink]] = {}
        self._body: tuple[m.Message, bytearray] | None = None
        self.current: RangeSink | None = None
        """The sink of the frame that is coming in."""
        self.ended = False

    def handlers(self) -> dict[type[m.Message], Callable[[Any], None]]:
        """Which messages this half takes."""
        return {
            m.Have: self._on_have,
            m.NotHave: self._on_not_have,
            m.Hashing: self._on_hashing,
            m.PieceList: self._on_piece_list,
            m.Gone: self._on_gone,
            m.Grant: self._on_grant,
            m.Data: self._on_data,
            m.Cancelled: self._on_cancelled,
        }

    @property
    def busy(self) -> bool:
        """True while an answer is waited for, or may come."""
        return bool(self._asked or self._manifests or self._takers or self._sinks)

    @property
    def taking(self) -> bool:
        """True while a file is fetched from the other side."""
        return bool(self._takers or self._sinks)

    # Asking

    def ask(self, name: str, asker: Asker, piece_size: int = 0) -> int:
        """Ask for a file by name; gives the number to withdraw it by."""
        number = self._next_req
        self._next_req += 1
        self._asked[number] = _Asked(name, asker, piece_size)
        self.link.send(m.Req(number, name, piece_size))
        return number

    def withdraw(self, number: int) -> None:
        """The `req` stands no longer."""
        if self._asked.pop(number, None) is not None:
            self.link.send(m.Withdraw(number))

    def manifest(self, offer: Offer) -> Deferred[Manifest]:
        """The manifest of what was offered, checked against its id.

        Fails with ChangedError (it is gone), ProtocolError (what came cannot be right)
        or NoSourcesError (the conversation ended).
        """
        waiting: Deferred[Manifest] = Deferred()
        wait = self._manifests.get(offer.file_id)
        if wait is not None:
            wait.waiting.append(waiting)
            return waiting
        self._manifests[offer.file_id] = _ManifestWait(offer, [waiting], bytearray())
        self.link.send(m.ManifestReq(offer.file_id))
        return waiting

    def manifest_bytes(self, file_id: FileId) -> int:
        """How much came so far of a manifest that is waited for."""
        wait = self._manifests.get(file_id)
        return len(wait.hashes) if wait is not None else 0

    def _on_have(self, have: m.Have) -> None:
        asked = self._asked.get(have.req)
        count = piece_count(have.size, have.piece_size)
        if have.bitfield and have.bitfield != (count + 7) // 8:
            raise ProtocolError("have: bitfield: not the length for this size and piece size")
        if asked is not None and have.name != asked.name:
            raise ProtocolError("have: name: not what was asked for")
        if asked is not None and have.others:
            asked.asker.hinted(self, self._credible(have.others))
        if have.bitfield:
            self._body = (have, bytearray())
        elif asked is not None:
            asked.file_id, asked.have = None, None
            asked.asker.offered(self, _offer(have), None)

    def _credible(self, rows: Sequence[m.PeerRow]) -> list[PeerInfo]:
        """Addresses that may be dialled on somebody's word: none of this machine, unless he is on it."""
        own = is_loopback(self.link.other.host)
        return [
            PeerInfo(PeerId(row.id), row.name, row.host, row.port)
            for row in rows
            if is_dialable(row.host) and (own or not is_loopback(row.host))
        ]

    def said(self, file_id: FileId) -> int:
        """The pieces of it that the other side offered, as far as it was asked (a mask)."""
        offered = [each.have for each in self._asked.values() if each.file_id == file_id]
        return max((have.mask for have in offered if have is not None), key=int.bit_count, default=0)

    def hears(self, file_id: FileId) -> bool:
        """True where it matters here which pieces of that file the other side has."""
        return file_id in self._takers or any(each.file_id == file_id for each in self._asked.values())

    def has(self, file_id: FileId, mask: int) -> None:
        """The other side announces pieces. IndexError for one out of range."""
        for asked in list(self._asked.values()):
            if asked.file_id == file_id and asked.have is not None:
                asked.have.update(mask)
        for taker in list(self._takers.get(file_id, ())):
            taker.has(self, mask)

    def _on_not_have(self, answer: m.NotHave) -> None:
        asked = self._asked.get(answer.req)
        if asked is not None:
            asked.asker.not_have(self)

    def _on_hashing(self, answer: m.Hashing) -> None:
        asked = self._asked.get(answer.req)
        if asked is not None:
            asked.asker.hashing(self, answer.done, answer.size)

    def _on_piece_list(self, header: m.PieceList) -> None:
        wait = self._manifests.get(FileId(header.file))
        if wait is None:
            raise ProtocolError("piece list: file: not asked for")
        offer = wait.offer
        if (header.size, header.piece_size) != (offer.size, offer.piece_size):
            raise ProtocolError("piece list: size: not what was offered")
        if header.length != piece_count(offer.size, offer.piece_size) * HASH_SIZE:
            raise ProtocolError("piece list: length: not what size and piece size make")
        self._body = (header, wait.hashes)
        if not header.length:
            self._body_ended()

    def body(self, event: Body) -> None:
        """Body bytes that came in one read with a line, or that belong into memory anyway."""
        if self.current is not None:
            data = memoryview(event.data)
            while data:
                target = self.current.target()
                step = min(len(target), len(data))
                target[:step] = data[:step]
                self.current.received(step)
                data = data[step:]
            if not event.left:
                self._frame_ended()
            return
        if self._body is None:
            raise ProtocolError("a body that was not asked for")
        self._body[1].extend(event.data)
        if not event.left:
            self._body_ended()

    def body_received(self, count: int) -> None:
        """The transport put bytes into the current sink's target."""
        assert self.current is not None
        sink = self.current
        sink.received(count)
        if sink.frame_left == 0:
            self._frame_ended()

    def _body_ended(self) -> None:
        assert self._body is not None
        message, data = self._body
        self._body = None
        if isinstance(message, m.Have):
            asked = self._asked.get(message.req)
            if asked is None:
                return
            try:
                field = Bitfield(piece_count(message.size, message.piece_size), bytes(data))
            except ValueError as error:
                raise ProtocolError(f"have: bitfield: {error}") from None
            asked.file_id, asked.have = FileId(message.file), field
            asked.asker.offered(self, _offer(message), field)
        elif isinstance(message, m.PieceList):
            wait = self._manifests.get(FileId(message.file))
            if wait is None:
                return
            manifest = Manifest(message.size, message.piece_size, bytes(data))
            if manifest.file_id != message.file:
                raise ProtocolError("piece list: the hashes are not those of the file id")
            del self._manifests[manifest.file_id]
            for waiting in wait.waiting:
                waiting.callback(manifest)

    def _on_gone(self, gone: m.Gone) -> None:
        file_id = FileId(gone.file)
        self._wanted.pop(file_id, None)
        wait = self._manifests.pop(file_id, None)
        if wait is not None:
            _fail(wait, ChangedError(f"{self.link.name}: {gone.message}"))
        for taker in self._takers.pop(file_id, {}):
            for grant, (its_taker, sink) in list(self._sinks.items()):
                if its_taker is taker:
                    sink.discard()
                    del self._sinks[grant]
            taker.gone(self, gone.message)

    # Taking

    def follow(self, file_id: FileId, taker: Taker) -> None:
        """Be told what the other side has of this file, until :meth:`leave`."""
        self._takers.setdefault(file_id, {}).setdefault(taker, 0)

    def follows(self, file_id: FileId) -> bool:
        """True where somebody here fetches this file from the other side."""
        return file_id in self._takers

    def want(
        self, file_id: FileId, taker: Taker, count: int, place: int = 0, once: bool = False
    ) -> None:  # fmt: skip
        """Keep so many grants open for this file; two who want the same content share what is granted.

        ``place``: the piece at which the other side's share begins; ``once``: only what nobody was
        sent yet.
        """
        self._takers.setdefault(file_id, {})[taker] = count
        self._send_want(file_id, place, once)

    def _send_want(self, file_id: FileId, place: int = 0, once: bool = False) -> None:
        count = min(sum(self._takers.get(file_id, {}).values()), m.MAX_WANT)
        if count or self._wanted.get(file_id):
            self._wanted[file_id] = count
            self.link.send(m.Want(file_id, count, place, once))
        if not count and file_id not in self._takers:
            self._wanted.pop(file_id, None)

    def leave(self, file_id: FileId, taker: Taker) -> None:
        """He wants nothing more of this file; what is under way for him is cancelled."""
        takers = self._takers.get(file_id, {})
        if taker not in takers or self.ended:
            return
        del takers[taker]
        if not takers:
            del self._takers[file_id]
        for grant, (its_taker, sink) in list(self._sinks.items()):
            if its_taker is taker and not sink.dead:
                self.cancel(grant)
        self._send_want(file_id)

    def get(self, sink: RangeSink, taker: Taker) -> None:
        """Use the sink's grant for its range."""
        self._sinks[sink.grant] = (taker, sink)
        self.link.send(m.Get(sink.grant, sink.offset, sink.length))

    def cancel(self, grant: int) -> None:
        """Stop; frames under way are discarded until `cancelled` comes."""
        entry = self._sinks.get(grant)
        if entry is not None and not entry[1].dead:
            entry[1].discard()
            if not self.ended:
                self.link.send(m.Cancel(grant))

    def _on_grant(self, grant: m.Grant) -> None:
        if grant.grant in self._sinks:
            raise ProtocolError(f"grant: {grant.grant} is used")
        if grant.first + grant.count > MAX_PIECES:
            raise ProtocolError(f"grant: count: no file has more than {MAX_PIECES}")
        named = Run(grant.first, grant.first + grant.count) if grant.count else None
        takers = self._takers.get(FileId(grant.file), {})
        wanting = [taker for taker, count in takers.items() if count or named is not None]
        full = [] if grant.needed else [taker for taker in wanting if taker.puts_off(self)]
        if wanting and full == wanting:
            self.link.send(m.Decline(grant.grant, later=True))
            return
        for taker in [taker for taker in wanting if taker not in full]:
            if taker.granted(self, grant.grant, grant.bytes, named):
                # The next one is somebody else's turn.
                takers[taker] = takers.pop(taker)
                return
            if named is None:
                takers[taker] = 0
        self.link.send(m.Decline(grant.grant))

    def _on_data(self, header: m.Data) -> None:
        entry = self._sinks.get(header.grant)
        if entry is None:
            raise ProtocolError("data: grant: nothing was asked for by it")
        entry[1].frame(header)
        self.current = entry[1]

    def _frame_ended(self) -> None:
        sink = self.current
        self.current = None
        if sink is not None and sink.finished:
            self._sinks.pop(sink.grant, None)

    def _on_cancelled(self, cancelled: m.Cancelled) -> None:
        entry = self._sinks.pop(cancelled.grant, None)
        if entry is not None:
            entry[1].discard()
            entry[0].cancelled(self, cancelled.grant)

    def misbehaved(self) -> None:
        """The other side broke the protocol: nobody is to use it again for what he wants of it."""
        self._fail_manifests(ProtocolError(f"{self.link.name} broke the protocol"))
        for taker in {taker for takers in self._takers.values() for taker in takers}:
            taker.misbehaved(self)

    def _fail_manifests(self, error: P2PError) -> None:
        waits, self._manifests = list(self._manifests.values()), {}
        for wait in waits:
            _fail(wait, error)

    def end(self) -> None:
        """The conversation is over: everybody who waits is told."""
        if self.ended:
            return
        self.ended = True
        for _, sink in self._sinks.values():
            sink.discard()
        self._sinks.clear()
        self._takers.clear()
        self._fail_manifests(NoSourcesError(f"{self.link.name} is gone"))
        asked, self._asked = self._asked, {}
        for asker in {id(entry.asker): entry.asker for entry in asked.values()}.values():
            asker.lost(self)


def _fail(wait: _ManifestWait, error: P2PError) -> None:
    for waiting in wait.waiting:
        waiting.errback(Failure(error))


def _offer(have: m.Have) -> Offer:
    return Offer(have.name, have.size, have.piece_size, FileId(have.file))
