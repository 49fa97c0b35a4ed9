"""Frozen snapshots of what goes on: client, web page and metrics read these and nothing else.

``to_json`` gives the objects of ``docs/cli.md``: what stands there is there, and
a few keys more. Sizes are bytes, rates bytes per second, times seconds.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

Direction = Literal["in", "out"]
State = Literal["waiting", "hashing", "running", "paused", "verifying", "done", "failed", "cancelled"]
Role = Literal["peer", "manager"]
ManagerLink = Literal["connected", "connecting", "none"]
Cause = Literal["own_link", "sources", "disk", "owner", "unknown"]
"""What a transfer waits for: this machine's link (or processor), those of its sources, the disk that is
written to, the owner, who alone has what is still missing; or that cannot be told."""

Json = dict[str, Any]


@attrs.frozen
class SourceStatus:
    """One other side of a transfer: verified bytes from it (or sent to it), and the rate now."""

    name: str
    bytes: int
    rate: float = 0.0

    def to_json(self) -> Json:
        """``name``, ``bytes``, ``rate``."""
        return {"name": self.name, "bytes": self.bytes, "rate": round(self.rate)}


@attrs.frozen
class Banned:
    """A peer that sent wrong data and is not used for that transfer for so many more seconds."""

    name: str
    seconds: float

    def to_json(self) -> Json:
        """``name``, ``seconds``."""
        return {"name": self.name, "seconds": round(self.seconds, 1)}


@attrs.frozen
class HeldUp:
    """For how many seconds a transfer waited for what."""

    own_link: float = 0.0
    sources: float = 0.0
    disk: float = 0.0
    owner: float = 0.0
    unknown: float = 0.0

    @property
    def by(self) -> Cause | None:
        """What it waited for longest; None where it did not wait."""
        seconds: dict[Cause, float] = attrs.asdict(self)  # type: ignore[assignment]
        cause = max(seconds, key=seconds.__getitem__)
        return cause if seconds[cause] > 0 else None

    def to_json(self) -> Json:
        """The seconds, each under its name."""
        return {name: round(seconds, 3) for name, seconds in attrs.asdict(self).items()}


@attrs.frozen
class Bound:
    """How near a transfer of a swarm came to what its links could do: an estimate, by the best that was seen.

    What came here, what the owner gave away and what everybody got, each divided by the highest rate
    seen: the largest of the three, in seconds, is the bound, next to the ``took`` seconds it really was.
    None: nothing was seen of that. ``peers``: how many wanted the file, this one included.
    """

    down: float | None
    owner: float | None
    all: float | None
    took: float
    peers: int

    @property
    def terms(self) -> dict[str, float]:
        """Those that could be known."""
        found = {"down": self.down, "owner": self.owner, "all": self.all}
        return {name: seconds for name, seconds in found.items() if seconds is not None}

    def to_json(self) -> Json | None:
        """``seconds``, ``took``, ``ratio``, ``peers``, ``terms``; None: nothing was seen."""
        terms = self.terms
        if not terms or max(terms.values()) <= 0:
            return None
        largest = max(terms.values())
        return {
            "seconds": round(largest, 3),
            "took": round(self.took, 3),
            "ratio": round(self.took / largest, 3),
            "peers": self.peers,
            "terms": {name: round(seconds, 3) for name, seconds in terms.items()},
        }


def why_slow(held_up: HeldUp | None, bound: Bound | None) -> Json:
    """The keys ``held_up_by``, ``held_up`` and ``bound`` of a transfer; null: nothing can be said."""
    return {
        "held_up_by": held_up.by if held_up is not None else None,
        "held_up": held_up.to_json() if held_up is not None else None,
        "bound": bound.to_json() if bound is not None else None,
    }


@attrs.frozen
class TransferStatus:
    """One transfer, coming (`in`) or going (`out`); ``size`` and ``file`` are None until known.

    ``code`` and ``message`` say why it failed, or what it waits for.
    """

    id: str
    name: str
    file: str | None
    direction: Direction
    state: State
    bytes: int
    size: int | None
    rate: float = 0.0
    sources: tuple[SourceStatus, ...] = ()
    code: str | None = None
    message: str | None = None
    banned: tuple[Banned, ...] = ()
    held_up: HeldUp | None = None
    bound: Bound | None = None

    @property
    def eta(self) -> float | None:
        """Seconds until all bytes are there at the present rate; None where nothing can be said."""
        if self.state != "running" or self.size is None or self.rate <= 0:
            return None
        return round(max(self.size - self.bytes, 0) / self.rate, 1)

    def to_json(self) -> Json:
        """An object of ``transfers``; also ``eta``, ``code``, ``message``, ``banned``, :func:`why_slow`."""
        return {
            "id": self.id,
            "name": self.name,
            "file": self.file,
            "direction": self.direction,
            "state": self.state,
            "bytes": self.bytes,
            "size": self.size,
            "rate": round(self.rate),
            "sources": [source.to_json() for source in self.sources],
            "eta": self.eta,
            "code": self.code,
            "message": self.message,
            "banned": [each.to_json() for each in self.banned],
            **why_slow(self.held_up, self.bound),
        }


@attrs.frozen
class PeerStatus:
    """One active peer."""

    name: str
    host: str
    port: int
    id: str

    def to_json(self) -> Json:
        """An object of ``peers``."""
        return {"name": self.name, "host": self.host, "port": self.port, "id": self.id}


@attrs.frozen
class FileStatus:
    """One file of the share; ``id`` is None until it is hashed."""

    name: str
    size: int
    id: str | None

    def to_json(self) -> Json:
        """An object of ``files``."""
        return {"name": self.name, "size": self.size, "id": self.id}


@attrs.frozen
class PiecesStatus:
    """Which pieces of one content are here; ``pieces`` as by :func:`p2pd.pieces.format_runs`."""

    name: str
    id: str
    size: int
    piece_size: int
    count: int
    held: int
    pieces: str

    def to_json(self) -> Json:
        """An object of ``pieces``."""
        return {
            "name": self.name,
            "id": self.id,
            "size": self.size,
            "piece_size": self.piece_size,
            "count": self.count,
            "held": self.held,
            "pieces": self.pieces,
            "complete": self.held == self.count,
        }


@attrs.frozen
class Check:
    """What `doctor` looked at; ``message`` says how it is, ``remedy`` what to do, empty where all is well."""

    check: str
    state: Literal["ok", "warning", "problem"]
    message: str
    remedy: str = ""

    def to_json(self) -> Json:
        """``check``, ``state``, ``message``, ``remedy``."""
        return {"check": self.check, "state": self.state, "message": self.message, "remedy": self.remedy}


@attrs.frozen
class DaemonStatus:
    """The daemon at a glance: what ``status`` prints.

    ``peers``, ``files`` and ``transfers`` are counts (``transfers``: those that have not
    ended); ``problems`` are sentences for a person, empty when all is well.
    """

    role: Role
    name: str
    host: str
    port: int
    manager: ManagerLink
    peers: int
    files: int
    transfers: int
    version: str
    pid: int
    problems: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line for a service manager: ``anna: 2 peers, 14 files, 1 transfer, manager connected``."""
        parts = [_count(self.peers, "peer")]
        if self.role == "peer":
            parts += [_count(self.files, "file"), _count(self.transfers, "transfer")]
            parts.append("no manager" if self.manager == "none" else f"manager {self.manager}")
        if self.problems:
            parts.append(_count(len(self.problems), "problem"))
        return f"{self.name}: {', '.join(parts)}"

    def to_json(self) -> Json:
        """The object of ``status``."""
        return {
            "role": self.role,
            "name": self.name,
            "host": self.host,
            "port": self.port,
            "manager": self.manager,
            "peers": self.peers,
            "files": self.files,
            "transfers": self.transfers,
            "version": self.version,
            "pid": self.pid,
            "problems": list(self.problems),
        }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
