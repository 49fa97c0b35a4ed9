"""What answers the commands of a peer's control socket; their arguments: :mod:`p2pd.control.commands`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred

from p2pd.errors import NotFoundError, P2PError
from p2pd.model import PeerInfo
from p2pd.peer.doctor import Facts, examine
from p2pd.peer.downloads import Downloads, Emit
from p2pd.peer.upload import Upload
from p2pd.pieces import Bitfield, format_runs
from p2pd.share.index import ShareIndex
from p2pd.share.paths import canonical_name
from p2pd.status import DaemonStatus, FileStatus, PeerStatus, PiecesStatus, TransferStatus
from p2pd.text import escape

WATCH_EVERY = 0.5
"""Seconds between two looks of `transfers --watch`."""


@attrs.frozen
class RunTime:
    """What can change while it runs: connections to take, a line for each piece, seconds of a first ban,
    limits in bytes per second, None: none.
    """  # fmt: skip

    maximum: int
    activity: bool
    ban: float
    up: int | None
    down: int | None


class Daemon(Protocol):
    """The peer that is commanded."""

    index: ShareIndex
    downloads: Downloads

    @property
    def run_time(self) -> RunTime:
        """The settings as they are."""

    def change(self, settings: RunTime) -> None:
        """Go on with these."""

    def status(self) -> DaemonStatus:
        """The daemon at a glance."""

    def others(self) -> list[PeerInfo]:
        """The other active peers."""

    def uploads(self) -> Iterator[tuple[str, Upload]]:
        """What goes out, with the other's name."""

    def facts(self) -> Facts:
        """What doctor looks at."""

    def later(self, seconds: float) -> Deferred[None]:
        """Fires after so many seconds."""

    def leave(self) -> None:
        """Stop, soon."""


class Commands:
    """See the module."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def cmd_status(self, args: Any, emit: Emit) -> dict[str, Any]:
        """The daemon at a glance."""
        return self._daemon.status().to_json()

    async def cmd_peers(self, args: Any, emit: Emit) -> dict[str, Any]:
        """The other active peers."""
        for info in sorted(self._daemon.others(), key=lambda info: info.name):
            emit({"event": "item", **PeerStatus(info.name, info.host, info.port, info.id).to_json()})
        return {}

    async def cmd_files(self, args: Any, emit: Emit) -> dict[str, Any]:
        """What this peer shares."""
        files = (FileStatus(each.name, each.key.size, each.file_id) for each in self._daemon.index.entries())
        return {"rows": (file.to_json() for file in files)}

    async def cmd_transfers(self, args: Any, emit: Emit) -> dict[str, Any]:
        """What comes and goes; with ``--watch`` each again when it is not as it was told."""
        told: dict[str, TransferStatus] = {}
        while True:
            found = {each.id: each for each in self._daemon.downloads.statuses(self._daemon.uploads())}
            for status in found.values():
                if status != told.get(status.id):
                    emit({"event": "item", **status.to_json()})
            for gone in told.keys() - found.keys():
                emit({"event": "gone", "id": gone})
            if not args.watch:
                return {}
            told = found
            # Bytes come all the time: rather than at each, it is looked as often as rates are worth it.
            await self._daemon.later(WATCH_EVERY)

    async def cmd_req(self, args: Any, emit: Emit) -> dict[str, Any]:
        """Fetch a file."""
        download = await self._daemon.downloads.request(args)
        waiter = download.wait(emit, args.timeout)
        emit({"event": "started", "transfer": download.id})
        if args.no_wait:
            waiter.outcome.addErrback(lambda _: None)
            download.leave(waiter)
            return {}
        try:
            return await waiter.outcome
        finally:
            download.leave(waiter)

    async def cmd_doctor(self, args: Any, emit: Emit) -> dict[str, Any]:
        """What commonly goes wrong with a peer."""
        return {"rows": [check.to_json() for check in await examine(self._daemon.facts())]}

    async def cmd_cancel(self, args: Any, emit: Emit) -> dict[str, Any]:
        """Give a transfer up."""
        await self._daemon.downloads.find(args.id).give_up()
        return {"transfer": args.id}

    async def cmd_pause(self, args: Any, emit: Emit) -> dict[str, Any]:
        """Stop a transfer for now."""
        await self._daemon.downloads.find(args.id).set_paused(True)
        return {"transfer": args.id}

    async def cmd_resume(self, args: Any, emit: Emit) -> dict[str, Any]:
        """Let a paused transfer go on."""
        await self._daemon.downloads.find(args.id).set_paused(False)
        return {"transfer": args.id}

    async def cmd_pieces(self, args: Any, emit: Emit) -> dict[str, Any]:
        """Which pieces of a file are here."""
        name = canonical_name(args.file)
        download = self._daemon.downloads.by_name(name)
        pieces = download.pieces if download is not None else None
        if pieces is not None:
            manifest, held = pieces
        else:
            if await self._daemon.index.find(name) is None:
                raise NotFoundError(f"{escape(name)} is not here")
            progress = self._daemon.index.hashing_progress(name)
            if progress is not None:
                done, size = progress
                raise P2PError(f"{escape(name)} is still being hashed: {done} of {size} bytes")
            manifest = await self._daemon.index.manifest(name)
            held = Bitfield.full(manifest.count)
        emit(
            {
                "event": "item",
                **PiecesStatus(
                    name, manifest.file_id, manifest.size, manifest.piece_size, manifest.count, len(held),
                    format_runs(held.runs()),
                ).to_json(),
            }
        )  # fmt: skip
        return {}

    async def cmd_limits(self, args: Any, emit: Emit) -> dict[str, Any]:
        """What may go and come in a second; changed where that is said."""
        said = {name: rate for name, rate in (("up", args.up), ("down", args.down)) if rate is not ...}
        settings = attrs.evolve(self._daemon.run_time, **said)
        self._daemon.change(settings)
        return {"up": settings.up, "down": settings.down}

    async def cmd_left_peer(self, args: Any, emit: Emit) -> dict[str, Any]:
        """Leave the network and stop the daemon."""
        self._daemon.leave()
        # Answered with its `done` by the control service, once its socket is removed.
        await Deferred()
        return {}
