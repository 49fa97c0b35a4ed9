"""Those whom this peer was told to fetch from, by address: its neighbours and the owner."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from p2pd.model import PeerId, PeerInfo
from p2pd.peer.contacts import Contacts
from p2pd.peer.conversation import Conversation
from p2pd.text import escape

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0
"""Seconds between tries to reach one of them: growing and jittered."""

Address = tuple[str, int]
log = Logger("p2pd.peer")


@attrs.define(eq=False)
class _Member:
    address: Address
    id: PeerId | None = None
    dialling: bool = False
    tried: bool = False
    again_at: float = 0.0
    pause: float = FIRST_PAUSE


class Circle:
    """See the module. ``resolve(host)`` gives a numeric address.

    Who they are is known once they were reached: an id alone can be claimed by anybody.
    """

    def __init__(
        self,
        contacts: Contacts,
        resolve: Callable[[str], Deferred[str]],
        *,
        neighbours: Sequence[Address],
        owner: Address | None,
    ) -> None:
        self._contacts = contacts
        self._resolve = resolve
        self._members = {address: _Member(address) for address in neighbours}
        self._owner = self._members.setdefault(owner, _Member(owner)) if owner is not None else None
        self._passing_on = bool(neighbours)

    def allows(self, peer: PeerInfo) -> bool:
        """Whether that peer may be fetched from."""
        return any(member.id == peer.id for member in self._members.values())

    def sparing(self, peer: PeerId) -> bool:
        """Whether that peer is to give each piece once: the neighbours pass them on."""
        return self._passing_on and self._owner is not None and self._owner.id == peer

    def renew(self) -> None:
        """Somebody asks for a file anew: who could not be reached is tried at once."""
        for member in self._members.values():
            if not member.dialling and not self._reached(member):
                member.tried, member.again_at, member.pause = False, 0.0, FIRST_PAUSE

    def _reached(self, member: _Member) -> bool:
        return member.id is not None and self._contacts.with_peer(member.id) is not None

    @property
    def known(self) -> bool:
        """True once each of them was reached, or could not be."""
        return all(member.tried for member in self._members.values())

    def sweep(self, now: float) -> None:
        """Reach those who are not reached; called often while something is to be fetched."""
        for member in self._members.values():
            if not self._reached(member) and not member.dialling and now >= member.again_at:
                member.dialling = True
                self._reach(member)

    def _reach(self, member: _Member) -> None:
        host, port = member.address

        def dial(numeric: str) -> Deferred[Conversation]:
            return self._contacts.reach_address(numeric, port)

        def reached(conversation: Conversation) -> None:
            assert conversation.other is not None
            member.id, member.pause = conversation.other.id, FIRST_PAUSE

        def failed(failure: Failure) -> None:
            if not member.tried:
                log.info(
                    "{host}:{port} cannot be reached yet: {why}",
                    host=host, port=port, why=escape(failure.getErrorMessage()),
                )  # fmt: skip
            member.again_at = self._contacts.now() + member.pause * random.uniform(0.5, 1.0)
            member.pause = min(member.pause * 2, LONGEST_PAUSE)

        def ended(_: object) -> None:
            member.dialling, member.tried = False, True

        self._resolve(host).addCallback(dial).addCallbacks(reached, failed).addBoth(ended)
