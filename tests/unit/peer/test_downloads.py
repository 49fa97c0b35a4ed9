"""All transfers of a peer: what befalls one of them does not concern the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.python.failure import Failure

from p2pd.control import commands
from p2pd.errors import P2PError, StorageError
from p2pd.peer import downloads as module
from p2pd.peer.downloads import Downloads


class Ticked:
    """A download that is only looked at."""

    def __init__(self, fault: Exception | None = None) -> None:
        self._fault = fault
        self.ticks = 0
        self.failure: Failure | None = None

    def tick(self, now: float) -> None:
        self.ticks += 1
        if self._fault is not None:
            raise self._fault

    def broken(self, failure: Failure) -> None:
        self.failure = failure


def test_a_fault_in_one_transfer_stops_no_other() -> None:
    house: Any = object()
    downloads = Downloads(house)
    live: dict[str, Any] = {"a" * 12: Ticked(KeyError("x")), "b" * 12: Ticked()}
    downloads._live.update(live)  # type: ignore[arg-type]
    downloads.tick(1.0)
    assert [each.ticks for each in live.values()] == [1, 1]
    failure = live["a" * 12].failure
    assert failure is not None
    assert failure.check(KeyError)
    assert live["b" * 12].failure is None


class Starting:
    """A download whose start takes until ``go_on`` fires."""

    over = False

    def __init__(self, house: Any, job: Any) -> None:
        self.id = job.transfer
        self.go_on: Deferred[None] = Deferred()
        self.started = self.promised = False
        self.failed: P2PError | None = None
        self.failure: Failure | None = None

    async def start(self) -> None:
        await self.go_on
        self.started = True

    async def promise(self) -> None:
        self.promised = True

    def fail(self, error: P2PError) -> None:
        self.failed = error

    def broken(self, failure: Failure) -> None:
        self.failure = failure


def requested(monkeypatch: pytest.MonkeyPatch, line: str) -> tuple[Any, Deferred[Any]]:
    """The download that ``line`` begins, and what becomes of the request."""
    monkeypatch.setattr(module, "Download", Starting)
    house: Any = SimpleNamespace(asks_anew=lambda: None)
    downloads = Downloads(house)
    downloads._loaded.callback(None)
    request = ensureDeferred(downloads.request(commands.parse(line.split(), "peer")))
    (download,) = downloads._live.values()
    return download, request


def test_a_client_that_goes_away_during_the_start_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    download, request = requested(monkeypatch, "req f --no-wait")
    gone: list[Any] = []
    request.addErrback(gone.append)
    request.cancel()
    assert gone[0].check(CancelledError)
    download.go_on.callback(None)
    assert download.started
    assert download.promised
    assert download.failed is download.failure is None


@pytest.mark.parametrize("error", [StorageError("the disk is full"), KeyError("a fault of ours")])
@pytest.mark.parametrize("waits", [True, False])
def test_what_cannot_be_started_ends(monkeypatch: pytest.MonkeyPatch, error: Exception, waits: bool) -> None:
    download, request = requested(monkeypatch, "req f")
    heard: list[Any] = []
    request.addErrback(heard.append)
    if not waits:
        request.cancel()
    download.go_on.errback(error)
    assert heard[0].check(type(error) if waits else CancelledError)
    ended = download.failed or download.failure.value
    assert ended is error
