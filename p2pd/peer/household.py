"""What all downloads of a peer share, as they see it."""

from __future__ import annotations

from typing import Protocol

from p2pd.fetch.probing import OwnLink
from p2pd.model import PeerId, PeerInfo, TransferId
from p2pd.net.limits import Limit
from p2pd.peer.activity import Activity
from p2pd.peer.contacts import Contacts
from p2pd.peer.receiving import BufferPool
from p2pd.peer.stock import Stock
from p2pd.share.index import ShareIndex
from p2pd.share.partial import PartialStore
from p2pd.share.paths import ShareRoot
from p2pd.share.writing import Writer
from p2pd.status import TransferStatus
from p2pd.threads import InThread


class Household(Protocol):
    """What all downloads of a daemon share."""

    root: ShareRoot
    index: ShareIndex
    store: PartialStore
    stock: Stock
    contacts: Contacts
    activity: Activity
    pool: BufferPool
    writer: Writer
    down: Limit
    """Of all that comes in."""
    link: OwnLink
    label: str
    """This peer's own name."""
    ban_seconds: float
    """For how long a peer that sent wrong data is not used for that transfer, the first time."""

    @property
    def in_thread(self) -> InThread:
        """Runs blocking work."""

    def now(self) -> float:
        """Monotonic seconds."""

    def may_fetch_from(self, peer: PeerInfo) -> bool:
        """False where this peer was told to fetch from others only."""

    def asks_anew(self) -> None:
        """A file is about to be asked for: whom it may be fetched from is looked for at once."""

    def sparing(self, peer: PeerId) -> bool:
        """Whether of that peer only what nobody was given yet is wanted."""

    def roster_known(self) -> bool:
        """True once it is known who is here."""

    def download_ended(self, transfer: TransferId, status: TransferStatus) -> None:
        """A transfer is done, failed or cancelled."""
