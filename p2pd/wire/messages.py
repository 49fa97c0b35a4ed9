"""The messages: one frozen class each, its docstring showing the wire form.

A message is one line: verb, space, one JSON object, line feed. Where a class
names a ``BODY`` field, that many raw bytes follow the line. Numbers are plain
decimal integers; there are no floats on the wire. Unknown keys are ignored, so
that a later minor version may add some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from p2pd.wire import fields

VERSION = (1, 0)
"""Major, minor. A different major version is refused; of two minor ones the lower is spoken."""
MAX_LINE = 64 * 1024
MAX_FRAME = 8 * 1024 * 1024
"""The longest `data` frame, so that short messages get in between."""
MAX_WANT = 64
"""Grants that may be wanted at once for a file."""
MAX_NAME_BYTES = 4096
"""A file's name in UTF-8; PATH_MAX of Linux."""
MAX_OTHERS = 50
"""Rows of others in a `have`."""
MAX_PIECES_TEXT = 32 * 1024
"""Bytes of a list of pieces in one message; a longer one comes in several."""
MAX_LISTEN = 16
"""Addresses that a peer may say it listens on."""


class Message:
    """Base of all messages. ``VERB`` opens the line; ``BODY`` names the field with the body's length."""

    VERB: ClassVar[str]
    BODY: ClassVar[str | None] = None

    @property
    def body_length(self) -> int:
        """How many raw bytes follow the line."""
        return int(getattr(self, self.BODY)) if self.BODY else 0


# Both to the manager and among peers


@attrs.frozen
class Error(Message):
    """``error {"code": "protocol", "message": "offset: -1 is not ..."}``: why, then the sender closes."""

    VERB = "error"
    code: str = attrs.field(validator=fields.line(64))
    message: str = attrs.field(validator=fields.line(1024))


@attrs.frozen
class Ping(Message):
    """``ping {"number": 7}``: answered by `pong`."""

    VERB = "ping"
    number: int = attrs.field(validator=fields.integer())


@attrs.frozen
class Pong(Message):
    """``pong {"number": 7}``"""

    VERB = "pong"
    number: int = attrs.field(validator=fields.integer())


@attrs.frozen
class Unknown(Message):
    """``unknown {"verb": "shuffle"}``: the answer to a verb that this version does not know."""

    VERB = "unknown"
    verb: str = attrs.field(validator=fields.line(64))


@attrs.frozen
class LeftPeer(Message):
    """``left_peer {}``: the sender leaves the network and closes."""

    VERB = "left_peer"


@attrs.frozen
class PeerRow:
    """A peer in a list: ``{"id": "32 hex", "name": "lab-7001", "host": "10.0.0.5", "port": 7001}``.

    An empty ``host``, from a manager: on the manager's machine; the receiver puts in the address it dialled.
    """

    id: str = attrs.field(validator=fields.peer_id())
    name: str = attrs.field(validator=fields.peer_name())
    host: str = attrs.field(validator=fields.line(255))
    port: int = attrs.field(validator=fields.integer(1, 65535))


# Between peers


@attrs.frozen
class Hello(Message):
    """``hello {"major": 1, "minor": 0, "id": "32 hex", "name": "lab-7001", "port": 7001}``: first, both ways."""

    VERB = "hello"
    major: int = attrs.field(validator=fields.integer(0, 1000))
    minor: int = attrs.field(validator=fields.integer(0, 1000))
    id: str = attrs.field(validator=fields.peer_id())
    name: str = attrs.field(validator=fields.peer_name())
    port: int = attrs.field(validator=fields.integer(0, 65535))


@attrs.frozen
class Req(Message):
    """``req {"req": 1, "name": "a/b.bin", "piece_size": 0}``: who has it?

    Stands until withdrawn or the conversation closes: a later `have` may
    follow a `not have`. ``piece_size`` 0: whichever the holder has; another
    one asks for an offer hashed at that.
    """

    VERB = "req"
    req: int = attrs.field(validator=fields.integer())
    name: str = attrs.field(validator=fields.text(MAX_NAME_BYTES))
    piece_size: int = attrs.field(validator=fields.integer())


@attrs.frozen
class Withdraw(Message):
    """``withdraw {"req": 1}``: the `req` stands no longer."""

    VERB = "withdraw"
    req: int = attrs.field(validator=fields.integer())


@attrs.frozen
class Have(Message):
    """``have {"req": 1, "name": "a/b.bin", "size": 9, "piece_size": 65536, "file": "64 hex", "bitfield": 0, "others": []}``

    ``bitfield`` bytes of packed bits follow; 0 means that all pieces are held. Pieces that
    are held later are told by `have piece`. ``others``: rows of some who are on the file too.
    """

    VERB = "have"
    BODY = "bitfield"
    req: int = attrs.field(validator=fields.integer())
    name: str = attrs.field(validator=fields.text(MAX_NAME_BYTES))
    size: int = attrs.field(validator=fields.integer())
    piece_size: int = attrs.field(validator=fields.integer(1))
    file: str = attrs.field(validator=fields.file_id())
    bitfield: int = attrs.field(validator=fields.integer(0, 1 << 17))
    others: list[PeerRow] = attrs.field(factory=list, validator=attrs.validators.max_len(MAX_OTHERS))


@attrs.frozen
class HavePiece(Message):
    """``have piece {"file": "64 hex", "pieces": "0-3,7"}``: these are held as well, from now on.

    To all who are on the same file: who asked for it, and who serves it.
    """

    VERB = "have piece"
    file: str = attrs.field(validator=fields.file_id())
    pieces: str = attrs.field(validator=fields.line(MAX_PIECES_TEXT))


@attrs.frozen
class NotHave(Message):
    """``not have {"req": 1, "name": "a/b.bin"}``"""

    VERB = "not have"
    req: int = attrs.field(validator=fields.integer())
    name: str = attrs.field(validator=fields.text(MAX_NAME_BYTES))


@attrs.frozen
class Hashing(Message):
    """``hashing {"req": 1, "done": 1048576, "size": 9000000}``: the file is here, its hash is not yet.

    Repeated while it goes on, at most once a second; then `have` follows.
    """

    VERB = "hashing"
    req: int = attrs.field(validator=fields.integer())
    done: int = attrs.field(validator=fields.integer())
    size: int = attrs.field(validator=fields.integer())


@attrs.frozen
class ManifestReq(Message):
    """``manifest {"file": "64 hex"}``: send the piece list."""

    VERB = "manifest"
    file: str = attrs.field(validator=fields.file_id())


@attrs.frozen
class PieceList(Message):
    """``piece list {"file": "64 hex", "size": 9, "piece_size": 65536, "length": 32}``: ``length`` bytes of hashes follow."""

    VERB = "piece list"
    BODY = "length"
    file: str = attrs.field(validator=fields.file_id())
    size: int = attrs.field(validator=fields.integer())
    piece_size: int = attrs.field(validator=fields.integer(1))
    length: int = attrs.field(validator=fields.integer(0, 1 << 25))


@attrs.frozen
class Gone(Message):
    """``gone {"file": "64 hex", "message": "changed on disk"}``: this content is not served any more.

    Ends every `want`, `grant` and `get` on it; standing reqs get a new `have` when the file is hashed anew.
    """

    VERB = "gone"
    file: str = attrs.field(validator=fields.file_id())
    message: str = attrs.field(validator=fields.line(1024))


@attrs.frozen
class Want(Message):
    """``want {"file": "64 hex", "count": 3, "place": 0, "once": false}``: keep so many grants open to me.

    0: none more. ``place``: the piece at which your share begins among several complete holders.
    ``once``: only for pieces that nobody was sent yet, others will pass the rest on.
    """

    VERB = "want"
    file: str = attrs.field(validator=fields.file_id())
    count: int = attrs.field(validator=fields.integer(0, MAX_WANT))
    place: int = attrs.field(default=0, validator=fields.integer())
    once: bool = attrs.field(default=False)


@attrs.frozen
class Grant(Message):
    """``grant {"file": "64 hex", "grant": 12, "bytes": 16777216, "first": 0, "count": 0, "needed": true}``: a slot is free.

    Name up to ``bytes``, or decline. ``count`` other than 0: it is for so many pieces from
    ``first`` on, and no others. ``needed`` false: others would take it; it may be put off.
    """

    VERB = "grant"
    file: str = attrs.field(validator=fields.file_id())
    grant: int = attrs.field(validator=fields.integer())
    bytes: int = attrs.field(validator=fields.integer(1))
    first: int = attrs.field(default=0, validator=fields.integer())
    count: int = attrs.field(default=0, validator=fields.integer())
    needed: bool = attrs.field(default=True)


@attrs.frozen
class Get(Message):
    """``get {"grant": 12, "offset": 0, "length": 524288}``: uses the grant for this range."""

    VERB = "get"
    grant: int = attrs.field(validator=fields.integer())
    offset: int = attrs.field(validator=fields.integer())
    length: int = attrs.field(validator=fields.integer(1))


@attrs.frozen
class Decline(Message):
    """``decline {"grant": 12, "later": false}``: nothing to ask for; ``later``: not now, a `want` follows."""

    VERB = "decline"
    grant: int = attrs.field(validator=fields.integer())
    later: bool = attrs.field(default=False)


@attrs.frozen
class Data(Message):
    """``data {"grant": 12, "offset": 0, "length": 524288}``: a frame; ``length`` raw bytes follow, in order, without gaps."""

    VERB = "data"
    BODY = "length"
    grant: int = attrs.field(validator=fields.integer())
    offset: int = attrs.field(validator=fields.integer())
    length: int = attrs.field(validator=fields.integer(1, MAX_FRAME))


@attrs.frozen
class Cancel(Message):
    """``cancel {"grant": 12}``: stop sending after the frame under way."""

    VERB = "cancel"
    grant: int = attrs.field(validator=fields.integer())


@attrs.frozen
class Cancelled(Message):
    """``cancelled {"grant": 12}``: no further frame of it comes."""

    VERB = "cancelled"
    grant: int = attrs.field(validator=fields.integer())


# Between a peer and its manager


@attrs.frozen
class NewPeer(Message):
    """``new_peer {"major": 1, "minor": 0, "id": "32 hex", "name": "lab-7001", "port": 7001, "listen": ["0.0.0.0"], "advertise": "", "cookie": ""}``

    ``listen``: the canonical addresses it listens on. ``cookie``: the one of an
    earlier `welcome`, or empty. ``advertise``: an address to be known by, or empty.
    """

    VERB = "new_peer"
    major: int = attrs.field(validator=fields.integer(0, 1000))
    minor: int = attrs.field(validator=fields.integer(0, 1000))
    id: str = attrs.field(validator=fields.peer_id())
    name: str = attrs.field(validator=fields.peer_name())
    port: int = attrs.field(validator=fields.integer(1, 65535))
    listen: list[str] = attrs.field(validator=fields.lines(MAX_LISTEN, 255))
    advertise: str = attrs.field(validator=fields.line(255))
    cookie: str = attrs.field(validator=fields.cookie(), repr=False)


@attrs.frozen
class Welcome(Message):
    """``welcome {"cookie": "...", "lease": 30, "host": "10.0.0.5", "problem": ""}``; the whole list follows as `peers`.

    ``lease`` in seconds: who says nothing for that long is taken off the list.
    ``host``: the address this peer is known by, empty for one known only on its own machine;
    ``problem``: a sentence for its console and status, or empty.
    """

    VERB = "welcome"
    cookie: str = attrs.field(validator=fields.cookie(), repr=False)
    lease: int = attrs.field(validator=fields.integer(1, 86400))
    host: str = attrs.field(validator=fields.line(255))
    problem: str = attrs.field(validator=fields.line(1024))


@attrs.frozen
class Peers(Message):
    """``peers {"serial": 41, "page": 0, "last": true, "rows": [...]}``: the whole list, in pages, as of ``serial``."""

    VERB = "peers"
    serial: int = attrs.field(validator=fields.integer())
    page: int = attrs.field(validator=fields.integer())
    last: bool = attrs.field()
    rows: list[PeerRow] = attrs.field()


@attrs.frozen
class Changes(Message):
    """``changes {"serial": 42, "joined": [...rows], "left": ["32 hex", ...]}``: applies on top of ``serial`` - 1."""

    VERB = "changes"
    serial: int = attrs.field(validator=fields.integer())
    joined: list[PeerRow] = attrs.field()
    left: list[str] = attrs.field(validator=fields.peer_ids())


@attrs.frozen
class ListPeers(Message):
    """``list {}``: send the whole list again (a gap was seen)."""

    VERB = "list"


def table(*classes: type[Message]) -> Mapping[str, type[Message]]:
    """The verbs that one direction takes, by verb."""
    return {cls.VERB: cls for cls in classes}


PEER_TO_PEER = table(
    Hello, Error, Ping, Pong, Unknown, LeftPeer, Req, Withdraw, Have, HavePiece, NotHave, Hashing,
    ManifestReq, PieceList, Gone, Want, Grant, Get, Decline, Data, Cancel, Cancelled,
)  # fmt: skip
PEER_TO_MANAGER = table(NewPeer, Error, Ping, Pong, Unknown, LeftPeer, ListPeers)
MANAGER_TO_PEER = table(Welcome, Error, Ping, Pong, Unknown, LeftPeer, Peers, Changes)
