"""Reaching others: one dial for all who ask, and all of them hear how it ended."""

from __future__ import annotations

import errno
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.internet.error import ConnectError, ConnectionLost, getConnectError
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from p2pd.errors import UnreachableError
from p2pd.model import PeerId, PeerInfo
from p2pd.net.limits import Limit
from p2pd.peer import contacts as module
from p2pd.peer.contacts import DIALS, MOST_DIALS, SLOW_DIAL, Contacts
from p2pd.peer.serving import Serving
from p2pd.wire import messages as m
from tests.rig.quiet import Quiet

OTHER = PeerInfo(PeerId("b" * 32), "other", "127.0.0.1", 7002)


class _NoServing:
    def handlers(self) -> dict[Any, Any]:
        return {}


def _contacts(clock: Clock, *listed: PeerInfo) -> Contacts:
    return Contacts(
        clock, maximum=5, hello=lambda: m.Hello(1, 0, "a" * 32, "me", 7001), serve=lambda _: _NoServing(),  # type: ignore[arg-type,return-value]
        listed=lambda: {each.id: each for each in listed}, changed=lambda: None, down=Limit(clock),
    )  # fmt: skip


def _others(count: int) -> list[PeerInfo]:
    return [PeerInfo(PeerId(f"{n:032x}"), f"p{n}", "10.0.0.1", n) for n in range(count)]


def test_everybody_who_waits_for_a_dial_hears_that_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    dials: list[Deferred[Any]] = []

    def dial(*_: Any) -> Deferred[Any]:
        dials.append(Deferred())
        return dials[-1]

    monkeypatch.setattr(module, "dial", dial)
    made = _contacts(Clock(), OTHER)
    heard: list[Any] = []
    for _ in range(3):
        made.reach(OTHER).addBoth(heard.append)
    assert len(dials) == 1
    dials[0].errback(Failure(Refused()))
    assert [type(each.value) for each in heard] == [UnreachableError] * 3
    made.reach(OTHER).addBoth(heard.append)
    assert len(dials) == 2
    dials[1].errback(Failure(Refused()))
    assert len(heard) == 4


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectError(string=cast(Any, Failure(ConnectionLost()))), "Connection to the other side was lost"),
        (getConnectError(OSError(errno.EHOSTUNREACH, "No route to host")), "No route to host"),
        (Refused(), "Connection was refused"),
        (ValueError("odd"), "odd"),
    ],
)
def test_why_a_dial_failed_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "dial", lambda *_: fail(error))
    made = _contacts(Clock(), OTHER)
    heard: list[str] = []
    made.reach(OTHER).addErrback(lambda failure: heard.append(failure.getErrorMessage()))
    (text,) = heard
    assert f"cannot be reached: {words}" in text
    assert "Failure" not in text


def test_a_dial_that_failed_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    shop: Any = Quiet()
    told: list[object] = []
    monkeypatch.setattr(shop.index, "subscribe", told.append)
    monkeypatch.setattr(shop.index, "unsubscribe", told.remove)
    monkeypatch.setattr(module, "dial", lambda *_: fail(Refused()))
    made = Contacts(
        Clock(), maximum=5, hello=shop.hello, serve=lambda conversation: Serving(conversation, shop),
        listed=lambda: {OTHER.id: OTHER}, changed=lambda: None, down=Limit(Clock()),
    )  # fmt: skip
    made.reach(OTHER).addErrback(lambda _: None)
    assert told == []


class _Here:
    """An open conversation with somebody who called."""

    ended = dialled = carrying = False

    def __init__(self, other: PeerInfo) -> None:
        self.other = other


def test_about_so_many_are_there_as_are_listed_or_talk_to_us() -> None:
    made = _contacts(Clock(), *_others(3))
    assert made.about() == 3
    for each in _others(5):
        made._by_peer[each.id] = [cast(Any, _Here(each))]
    assert made.about() == 5


def test_many_who_do_not_answer_hold_up_the_others_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: dict[int, Deferred[Any]] = {}
    monkeypatch.setattr(module, "dial", lambda reactor, host, port, *_: dialled.setdefault(port, Deferred()))
    clock = Clock()
    made = _contacts(clock)
    for peer in _others(MOST_DIALS + DIALS):
        made.reach(peer).addErrback(lambda _: None)
    assert list(dialled) == list(range(DIALS))
    clock.advance(SLOW_DIAL)
    assert list(dialled) == list(range(2 * DIALS))
    clock.advance(SLOW_DIAL)
    assert list(dialled) == list(range(3 * DIALS))
    for _ in range(MOST_DIALS):
        clock.advance(SLOW_DIAL)
    assert list(dialled) == list(range(MOST_DIALS)), "nor are there too many"
    dialled[0].errback(Failure(Refused()))
    clock.advance(0)
    assert list(dialled) == list(range(MOST_DIALS + 1))


def test_one_that_fails_soon_and_late_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was let in because it took long lets in nobody else when it ends."""
    dials: list[Deferred[Any]] = []
    monkeypatch.setattr(module, "dial", lambda *_: dials.append(Deferred()) or dials[-1])  # type: ignore[func-returns-value]
    clock = Clock()
    made = _contacts(clock)
    for peer in _others(4 * DIALS):
        made.reach(peer).addErrback(lambda _: None)
    clock.advance(SLOW_DIAL)
    assert len(dials) == 2 * DIALS
    for each in dials[:DIALS]:
        each.errback(Failure(Refused()))  # too late to matter
    clock.advance(0)
    assert len(dials) == 2 * DIALS
    dials[DIALS].errback(Failure(Refused()))
    clock.advance(0)
    assert len(dials) == 2 * DIALS + 1


def test_who_calls_while_others_are_dialled_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    dials: list[Deferred[Any]] = []
    monkeypatch.setattr(module, "dial", lambda *_: dials.append(Deferred()) or dials[-1])  # type: ignore[func-returns-value]
    clock = Clock()
    made = _contacts(clock, OTHER)
    for peer in _others(DIALS):
        made.reach(peer).addErrback(lambda _: None)
    reached: list[object] = []
    made.reach(OTHER).addCallback(reached.append)
    conversation: Any = _Here(OTHER)
    made.introduced(conversation)
    dials[0].errback(Failure(Refused()))
    clock.advance(0)
    assert reached == [conversation]
    assert len(dials) == DIALS


@pytest.mark.parametrize("leaving", [False, True])
def test_a_thousand_who_called_meanwhile_are_all_reached(
    monkeypatch: pytest.MonkeyPatch, leaving: bool
) -> None:  # fmt: skip
    """One lets the next in, and that one the next: not within each other."""
    dials: list[Deferred[Any]] = []
    monkeypatch.setattr(module, "dial", lambda *_: dials.append(Deferred()) or dials[-1])  # type: ignore[func-returns-value]
    clock = Clock()
    made = _contacts(clock)
    others = _others(1000)
    heard: list[object] = []
    for other in others:
        made.reach(other).addBoth(heard.append)
    for other in [] if leaving else others[DIALS:]:
        conversation: Any = _Here(other)
        made.introduced(conversation)
    if leaving:
        ensureDeferred(made.stop(1.0))
    for each in dials[:DIALS]:
        each.errback(Failure(Refused()))
    for _ in range(1000):
        clock.advance(0)
    assert len(heard) == len(others)
    assert len(dials) == DIALS
    made.reach(OTHER).addErrback(lambda _: None)
    assert len(dials) == DIALS + (not leaving)
