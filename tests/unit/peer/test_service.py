"""The daemon as a whole, as far as no other process is needed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2pd.net.rounds import rounds_of
from p2pd.peer import tap
from p2pd.peer.service import PeerService
from tests.unit.net.test_rounds import Reactor


def test_before_a_pause_the_writer_begins_as_long_as_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: Any) -> None:
        """No sockets, no share."""

    monkeypatch.setattr(PeerService, "_start", nothing)
    options = tap.Options()
    options.parseOptions(["--port", "0", "--dir", str(tmp_path), "--no-manager"])
    reactor: Any = Reactor()
    reactor.callFromThread = lambda work: work()
    made = PeerService(reactor, options.config())
    flushed: list[None] = []
    monkeypatch.setattr(made.writer, "flush", lambda: flushed.append(None))
    made.startService()
    (begin,) = rounds_of(reactor)._told
    begin()
    assert flushed == [None]
    made.stopService()
    assert rounds_of(reactor)._told == []
