"""Who is here: the manager's rules, pure. No I/O, no clock: ``now`` is given, in monotonic seconds.

A *machine* is the address that its peers are observed at; ``""`` is the
manager's own one. A row is *public*, or only for the peers of one machine.
Changes are gathered until :meth:`Registry.flush` numbers them; the list that
:meth:`Registry.rows` shows is always the one as of the last number.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs

from p2pd.errors import RefusedError, UsageError
from p2pd.model import PeerId, PeerInfo
from p2pd.net.addresses import canonical_host, is_dialable, is_ipv6, is_loopback, is_wildcard

OWN_MACHINE = ""
"""The machine of the manager itself."""
MAX_BATCH = 64
"""Peers in one numbered change, so that it fits a line whatever their names."""
MAX_KNOWN = 100_000
"""Cookies remembered of peers that are not here."""


@attrs.frozen
class Announcement:
    """What a peer says of itself: ``listen`` are addresses, ``advertise`` and ``cookie`` may be empty."""

    id: PeerId
    name: str
    port: int
    listen: Sequence[str]
    advertise: str = ""
    cookie: str = attrs.field(default="", repr=False)


@attrs.frozen
class Placed:
    """How a peer is shown: ``host`` in its row, the ``machine`` that alone sees it (None: public)."""

    host: str
    machine: str | None
    problem: str = ""


@attrs.frozen
class Joined:
    """The answer to an announcement; ``host`` is empty where the peer has no address of its own elsewhere."""

    cookie: str = attrs.field(repr=False)
    cookie_hash: str
    host: str
    problem: str
    machine: str


@attrs.frozen
class Changed:
    """What a change is to one audience; a peer in both was moved to it: take ``left`` first."""

    joined: tuple[PeerInfo, ...] = ()
    left: tuple[PeerId, ...] = ()


NOTHING = Changed()


@attrs.frozen
class Batch:
    """Change number ``serial``: what all see, and what the peers of some machines see besides."""

    serial: int
    public: Changed
    by_machine: Mapping[str, Changed]

    def seen_by(self, machine: str) -> Changed:
        """The change as a peer of ``machine`` sees it; it may be empty, and is numbered all the same."""
        own = self.by_machine.get(machine, NOTHING)
        return Changed(self.public.joined + own.joined, self.public.left + own.left)


@attrs.frozen
class Shown:
    """A row with its audience."""

    info: PeerInfo
    machine: str | None


@attrs.define(eq=False)
class _Active:
    shown: Shown
    last_heard: float
    lease: float  # as it was told


class Registry:
    """Peers with their leases of ``lease`` seconds; a new value counts for who joins after that.

    ``own_address`` tells whether an address is one of the manager's machine.
    ``known`` are (id, SHA-256 of its cookie in hex) of earlier runs.
    """

    def __init__(
        self,
        lease: float,
        own_address: Callable[[str], bool],
        known: Iterable[tuple[PeerId, str]] = (),
        new_cookie: Callable[[], str] = lambda: secrets.token_urlsafe(24),
    ) -> None:
        self.lease = lease
        self.serial = 0
        self._own_address = own_address
        self._new_cookie = new_cookie
        self._active: dict[PeerId, _Active] = {}
        self._names: dict[str, PeerId] = {}
        self._cookies: dict[PeerId, str] = {}
        self._published: dict[PeerId, Shown] = {}
        self._dirty: dict[PeerId, None] = {}
        self.remember(known)

    def remember(self, known: Iterable[tuple[PeerId, str]]) -> None:
        """Take over cookies of earlier runs; those of peers seen since are newer and stay."""
        for peer, cookie_hash in known:
            if len(self._cookies) < MAX_KNOWN:
                self._cookies.setdefault(peer, cookie_hash)

    def __len__(self) -> int:
        return len(self._active)

    def __contains__(self, peer: object) -> bool:
        return peer in self._active

    @property
    def active(self) -> Iterator[Shown]:
        """Everybody who is here now, in the order they came."""
        return (each.shown for each in self._active.values())

    def join(self, said: Announcement, observed: str, now: float) -> Joined:
        """Take a peer in, or again: then its old entry is replaced.

        RefusedError, with nothing changed, where its name is another active
        peer's, its id is an active peer's whose cookie it has not, or what it
        advertises is no address that can be dialled.
        """
        cookie_hash = _hash(said.cookie)
        proven = hmac.compare_digest(cookie_hash, self._cookies.get(said.id, ""))
        old = self._active.get(said.id)
        if old is not None and not proven:
            raise RefusedError("a peer with this id is active, and the cookie is not its own")
        if self._names.get(_name_key(said.name), said.id) != said.id:
            raise RefusedError(f"name {said.name} is taken")
        machine = self.machine_of(observed)
        placed = self.place(said, observed)
        cookie = said.cookie
        if not proven:
            cookie = self._new_cookie()
            cookie_hash = _hash(cookie)
        if old is not None:
            self._names.pop(_name_key(old.shown.info.name))
        self._cookies.pop(said.id, None)  # put last, among those seen last
        self._cookies[said.id] = cookie_hash
        self._forget_some()
        info = PeerInfo(said.id, said.name, placed.host, said.port)
        self._names[_name_key(said.name)] = said.id
        self._active[said.id] = _Active(Shown(info, placed.machine), now, self.lease)
        self._dirty[said.id] = None
        known_as = placed.host if placed.machine is None else ""
        return Joined(cookie, cookie_hash, known_as, placed.problem, machine)

    def leave(self, peer: PeerId) -> bool:
        """Take a peer off the list; False where it was not on it."""
        entry = self._active.pop(peer, None)
        if entry is None:
            return False
        self._names.pop(_name_key(entry.shown.info.name))
        self._dirty[peer] = None
        return True

    def touch(self, peer: PeerId, now: float) -> None:
        """Something was heard of ``peer``: its lease begins anew."""
        entry = self._active.get(peer)
        if entry is not None:
            entry.last_heard = now

    def expire(self, now: float) -> list[PeerId]:
        """Take those off whose lease has lapsed; their ids."""
        lapsed = [peer for peer, entry in self._active.items() if now - entry.last_heard > entry.lease]
        for peer in lapsed:
            self.leave(peer)
        return lapsed

    def flush(self) -> list[Batch]:
        """Number what changed since the last time: batches of consecutive serials, none where nothing did."""
        changed: list[tuple[PeerId, Shown | None, Shown | None]] = []
        for peer in self._dirty:
            entry = self._active.get(peer)
            old, new = self._published.get(peer), entry.shown if entry is not None else None
            if old != new:
                changed.append((peer, old, new))
        self._dirty.clear()
        return [self._batch(changed[at : at + MAX_BATCH]) for at in range(0, len(changed), MAX_BATCH)]

    def rows(self, machine: str) -> Iterator[PeerInfo]:
        """The whole list as peers of ``machine`` see it, as of ``serial``."""
        return (each.info for each in self._published.values() if each.machine in (None, machine))

    def special_machines(self) -> set[str]:
        """The machines that see more than the public list; all others share one."""
        return {each.machine for each in self._published.values() if each.machine is not None}

    def machine_of(self, observed: str) -> str:
        """The machine of a peer observed at this canonical address."""
        return OWN_MACHINE if self._own_address(observed) else observed

    def place(self, said: Announcement, observed: str) -> Placed:
        """Where others find a peer observed at a canonical address ("Addresses" in docs/cli.md)."""
        machine = self.machine_of(observed)
        if said.advertise:
            return _advertised(said.advertise, machine)
        listen = [host for host in map(_canonical_or_none, said.listen) if host is not None]
        if listen and all(map(is_loopback, listen)):
            problem = ""
            if machine != OWN_MACHINE:
                problem = (
                    f"this peer listens on {' and '.join(listen)} only, where the manager's other peers"
                    " cannot reach it; start it with --host and an address of this machine"
                )
            host = "127.0.0.1" if "127.0.0.1" in listen else listen[0]
            return Placed(host, machine, problem)
        here = observed if machine != OWN_MACHINE else ""
        if any(map(is_wildcard, listen)):
            problem = ""
            if is_ipv6(observed) and machine != OWN_MACHINE and not any(map(is_ipv6, listen)):
                problem = f"this peer is known as {observed}, but listens on IPv4 only"
            return Placed(here, None, problem)
        specific = [host for host in listen if is_dialable(host) and not is_loopback(host)]
        if observed in specific:
            return Placed(observed, None)
        if machine == OWN_MACHINE:
            for host in specific:
                if self._own_address(host):
                    return Placed(host, None)
        problem = ""
        if specific:
            problem = (
                f"this peer listens on {' and '.join(specific)}, but the manager sees it at {observed};"
                " others may not reach it: say by --advertise which address they should use"
            )
        return Placed(here, None, problem)

    def _batch(self, changed: Sequence[tuple[PeerId, Shown | None, Shown | None]]) -> Batch:
        joined: dict[str | None, list[PeerInfo]] = {None: []}
        left: dict[str | None, list[PeerId]] = {None: []}
        for peer, old, new in changed:
            self._published.pop(peer, None)
            if new is not None:
                self._published[peer] = new
                joined.setdefault(new.machine, []).append(new.info)
            if old is not None and (new is None or new.machine != old.machine):
                left.setdefault(old.machine, []).append(peer)
        self.serial += 1
        audience = {
            key: Changed(tuple(joined.get(key, ())), tuple(left.get(key, ())))
            for key in joined.keys() | left.keys()
        }
        public = audience.pop(None)
        return Batch(self.serial, public, {key: value for key, value in audience.items() if key is not None})

    def _forget_some(self) -> None:
        if len(self._cookies) > MAX_KNOWN:
            for peer in [peer for peer in self._cookies if peer not in self._active][: MAX_KNOWN // 10]:
                del self._cookies[peer]


def _advertised(text: str, machine: str) -> Placed:
    host = _canonical_or_none(text)
    if host is None or not is_dialable(host):
        raise RefusedError(f"{text[:60]!r} cannot be advertised: an address of one machine is needed")
    return Placed(host, machine if is_loopback(host) else None)


def _canonical_or_none(text: str) -> str | None:
    try:
        return canonical_host(text)
    except UsageError:
        return None


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8")).hexdigest()


def _name_key(name: str) -> str:
    """Names that look the same because they differ in normalisation only are the same."""
    return unicodedata.normalize("NFC", name)
