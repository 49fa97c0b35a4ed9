"""All transfers of a peer: what befalls one of them does not concern the others."""

from __future__ import annotations

from typing import Any

from twisted.python.failure import Failure

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
