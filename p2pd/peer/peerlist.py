"""The list of active peers as the manager sends it; all of it is hostile until checked. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from p2pd.errors import ProtocolError
from p2pd.model import PeerId, PeerInfo, is_peer_id
from p2pd.net.addresses import is_dialable
from p2pd.wire.messages import Changes, PeerRow, Peers

MAX_PEERS = 100_000


class PeerList:
    """The others, by id. One object for all connections: the list is kept while the manager is away.

    ``dialled``: where the manager was reached, which stands for rows without a
    host. Messages that do not fit raise ProtocolError, and leave the list as it was.
    """

    def __init__(self, own_id: PeerId) -> None:
        self.dialled = ""
        self.had_list = False
        self._own_id = own_id
        self._peers: dict[PeerId, PeerInfo] = {}
        self._serial: int | None = None
        self._pages: dict[PeerId, PeerInfo] | None = None
        self._page = 0
        self._pages_serial = 0

    @property
    def peers(self) -> Mapping[PeerId, PeerInfo]:
        """Everybody but oneself."""
        return MappingProxyType(self._peers)

    def connected(self, dialled: str) -> None:
        """A new connection: its numbers begin anew."""
        self.dialled = dialled
        self._serial = None
        self._pages = None

    def take_page(self, message: Peers) -> bool:
        """One page of the whole list; True where it was the last one and the list is another object's now."""
        if message.page == 0:
            self._pages, self._page, self._pages_serial = {}, 0, message.serial
        if self._pages is None or message.page != self._page or message.serial != self._pages_serial:
            raise ProtocolError(f"peers: page {message.page} does not follow")
        self._page += 1
        for info in self._checked(message.rows):
            if info.id in self._pages:
                raise ProtocolError("peers: a peer stands twice")
            self._pages[info.id] = info
        if len(self._pages) > MAX_PEERS + 1:
            raise ProtocolError(f"peers: more than {MAX_PEERS} of them")
        if not message.last:
            return False
        self._pages.pop(self._own_id, None)
        self._peers, self._pages = self._pages, None
        self._serial = message.serial
        self.had_list = True
        return True

    def take_changes(self, message: Changes) -> bool:
        """Changes on top of the last number; False, with nothing changed, where some are missing."""
        if self._pages is not None:
            raise ProtocolError("changes: in the middle of a list")
        if self._serial is None or message.serial != self._serial + 1:
            self._serial = None
            return False
        joined = list(self._checked(message.joined))
        for peer in message.left:
            if not is_peer_id(peer):
                raise ProtocolError("changes: left: not a peer id")
        if len(self._peers) + len(joined) > MAX_PEERS + len(message.left) + 1:
            raise ProtocolError(f"changes: more than {MAX_PEERS} peers")
        for peer in message.left:
            self._peers.pop(PeerId(peer), None)
        for info in joined:
            if info.id != self._own_id:
                self._peers[info.id] = info
        self._serial = message.serial
        return True

    def _checked(self, rows: Iterable[PeerRow]) -> Iterable[PeerInfo]:
        for row in rows:
            host = row.host or self.dialled
            if not is_dialable(host):
                raise ProtocolError("host: not the canonical address of one machine")
            yield PeerInfo(PeerId(row.id), row.name, host, row.port)
