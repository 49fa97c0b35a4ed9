"""Clients that wait for a transfer: what each is told, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pd.model import PeerId, PeerInfo
from p2pd.peer.intake import Intake
from p2pd.peer.waiting import PROGRESS_EVERY, QUIET, Waiters


def intake(*names: str) -> Intake:
    infos = [PeerInfo(PeerId(name * 32), name, "127.0.0.1", 7001) for name in names]
    return cast(
        Intake,
        SimpleNamespace(
            infos=lambda: infos, sources=list,
            transfer=SimpleNamespace(bytes_held=5, sources=dict.fromkeys(names)),
            manifest=SimpleNamespace(size=10),
        ),
    )  # fmt: skip


def told(events: list[dict[str, Any]]) -> list[list[str]]:
    return [[each["name"] for each in event["sources"]] for event in events if event["event"] == "sources"]


def test_each_client_is_told_the_sources_once_and_when_they_change() -> None:
    waiters = Waiters()
    one: list[dict[str, Any]] = []
    two: list[dict[str, Any]] = []
    waiters.add(one.append, 30, 0.0)
    waiters.progress(intake("a"), 0.0)
    waiters.add(two.append, 30, 0.0)
    waiters.progress(intake("a"), 1.0)
    waiters.progress(intake("a", "b"), 2.0)
    waiters.progress(intake("a", "b", "c"), 2.0 + PROGRESS_EVERY / 2)
    assert told(one) == [["a"], ["a", "b"]]
    assert told(two) == [["a"], ["a", "b"]]
    assert sum(event["event"] == "progress" for event in one) == 3


@pytest.mark.parametrize(("sources", "apart"), [(2, 0.25), (20, 0.5), (30, 0.75), (200, 1.0)])
def test_of_many_sources_progress_is_told_less_often_but_who_they_are_at_once(
    sources: int, apart: float
) -> None:  # fmt: skip
    waiters = Waiters()
    events: list[dict[str, Any]] = []
    waiters.add(events.append, 30, 0.0)
    names = [chr(1000 + number) for number in range(sources)]
    for tick in range(41):
        waiters.progress(intake(*names), 0.25 * tick)
    assert sum(event["event"] == "progress" for event in events) == 1 + int(10 / apart)
    waiters.progress(intake(*names, "z"), 10.25)
    assert len(told(events)) == 2


def test_the_rate_is_none_once_nothing_comes() -> None:
    waiters = Waiters()
    now = 0.0
    for step in range(20):
        now = 0.25 * step
        waiters.measure(10**6 * step, now)
    assert 3.9e6 < waiters.rate < 4.1e6
    end = now
    while now < end + QUIET:
        now += 0.25
        assert waiters.rate > 0
        waiters.measure(19 * 10**6, now)
    assert waiters.rate == 0
    waiters.measure(20 * 10**6, now + 0.25)
    assert waiters.rate > 0
