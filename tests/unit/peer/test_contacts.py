"""Reaching others: one dial for all who ask, and all of them hear how it ended."""

from __future__ import annotations

import errno
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError, ConnectionLost, getConnectError
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from p2pd.errors import UnreachableError
from p2pd.model import PeerId, PeerInfo
from p2pd.net.limits import Limit
from p2pd.peer import contacts as module
from p2pd.peer.contacts import Contacts
from p2pd.peer.serving import Serving
from p2pd.wire import messages as m
from tests.rig.quiet import Quiet

OTHER = PeerInfo(PeerId("b" * 32), "other", "127.0.0.1", 7002)


class _NoServing:
    def handlers(self) -> dict[Any, Any]:
        return {}


def test_everybody_who_waits_for_a_dial_hears_that_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    dials: list[Deferred[Any]] = []

    def dial(*_: Any) -> Deferred[Any]:
        dials.append(Deferred())
        return dials[-1]

    monkeypatch.setattr(module, "dial", dial)
    made = Contacts(
        Clock(), maximum=5, hello=lambda: m.Hello(1, 0, "a" * 32, "me", 7001), serve=lambda _: _NoServing(),  # type: ignore[arg-type,return-value]
        listed=lambda: {OTHER.id: OTHER}, changed=lambda: None, down=Limit(Clock()),
    )  # fmt: skip
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
    made = Contacts(
        Clock(), maximum=5, hello=lambda: m.Hello(1, 0, "a" * 32, "me", 7001), serve=lambda _: _NoServing(),  # type: ignore[arg-type,return-value]
        listed=lambda: {OTHER.id: OTHER}, changed=lambda: None, down=Limit(Clock()),
    )  # fmt: skip
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
