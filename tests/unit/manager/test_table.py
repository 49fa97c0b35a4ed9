from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from p2pd.manager.table import Table, table_lines
from p2pd.model import PeerId, PeerInfo


def rows(*names: Any) -> Any:
    return [(PeerInfo(PeerId("0" * 32), name, "fe80::1", 7001), 0.0) for name in names]


def test_one_line_per_peer() -> None:
    head, first, second = table_lines(rows("a", "a b\u2800c{x}"))
    assert head == "2 active peers:"
    assert first.split()[:2] == ["a", "[fe80::1]:7001"]
    assert "\\u2800" in second
    assert list(table_lines([])) == ["no active peers"]


def test_long_tables_are_not_printed_at_every_change() -> None:
    clock, heard = Clock(), []

    def observe(event: LogEvent) -> None:
        heard.append(formatEvent(event))

    globalLogPublisher.addObserver(cast(Any, observe))
    try:
        table = Table(clock, lambda: rows(*"abc{}"))
        table.changed()
        table.changed()
        table.changed()
        assert len(heard) == 6
        clock.advance(1)
        assert len(heard) == 12
        assert "{" in "".join(heard)
        table.changed()
        table.changed()
        table.stop()
        assert clock.getDelayedCalls() == []
    finally:
        globalLogPublisher.removeObserver(cast(Any, observe))
