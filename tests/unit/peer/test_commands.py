"""What the commands of a peer's control socket say."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.python.failure import Failure

from p2pd.peer.commands import Commands
from p2pd.status import Bound, HeldUp, TransferStatus


class Peer:
    """Lists what it is told to, and is looked at when :meth:`pass_time` is called."""

    def __init__(self) -> None:
        self.rows: list[TransferStatus] = []
        self.downloads = self
        self._waiting: Deferred[None] | None = None

    def uploads(self) -> list[Any]:
        return []

    def statuses(self, uploads: list[Any]) -> list[TransferStatus]:
        return self.rows

    def later(self, seconds: float) -> Deferred[None]:
        assert 0 < seconds <= 1
        self._waiting = Deferred()
        return self._waiting

    def pass_time(self) -> None:
        assert self._waiting is not None
        waiting, self._waiting = self._waiting, None
        waiting.callback(None)


def row(transfer: str, count: int, **more: Any) -> TransferStatus:
    return TransferStatus(transfer, "f", None, "in", "running", count, 100, **more)


def test_transfers_are_listed_once() -> None:
    peer = Peer()
    told: list[dict[str, Any]] = []
    peer.rows = [row("a", 1), row("b", 2)]
    done = ensureDeferred(Commands(cast(Any, peer)).cmd_transfers(Namespace(watch=False), told.append))
    assert done.called
    assert [(each["event"], each["id"]) for each in told] == [("item", "a"), ("item", "b")]


def test_a_watcher_is_told_what_changed_and_what_is_gone_until_it_leaves() -> None:
    peer = Peer()
    told: list[dict[str, Any]] = []
    peer.rows = [row("a", 1), row("b", 2)]
    done = ensureDeferred(Commands(cast(Any, peer)).cmd_transfers(Namespace(watch=True), told.append))
    assert [each["id"] for each in told] == ["a", "b"]
    told.clear()
    peer.pass_time()
    assert told == []
    peer.rows = [row("a", 1), row("b", 3), row("c", 0)]
    peer.pass_time()
    assert [(each["event"], each["id"], each["bytes"]) for each in told] == [
        ("item", "b", 3),
        ("item", "c", 0),
    ]
    told.clear()
    peer.rows = [row("b", 3), row("c", 0)]
    peer.pass_time()
    assert told == [{"event": "gone", "id": "a"}]
    ended: list[Failure] = []
    done.addErrback(ended.append)
    done.cancel()
    assert ended[0].check(CancelledError)


def test_what_held_it_up_stands_beside_what_was_there_before() -> None:
    plain = row("a", 1).to_json()
    assert (plain["held_up_by"], plain["held_up"], plain["bound"]) == (None, None, None)
    waits, bound = HeldUp(sources=3.0, disk=1.0), Bound(4.0, None, 5.0, 6.0, 3)
    told = row("a", 1, held_up=waits, bound=bound).to_json()
    assert told["held_up_by"] == "sources"
    assert told["held_up"] == {"own_link": 0, "sources": 3, "disk": 1, "owner": 0, "unknown": 0}
    assert told["bound"] == {
        "seconds": 5, "took": 6, "ratio": 1.2, "peers": 3, "terms": {"down": 4, "all": 5},
    }  # fmt: skip
    assert row("a", 1, held_up=HeldUp()).to_json()["held_up_by"] is None
