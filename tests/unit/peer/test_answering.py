"""What is said to a `req`, beyond whether the file is here."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from p2pd.fetch.neighbours import ALL_BELOW
from p2pd.model import PeerId, PeerInfo
from p2pd.peer.host import Other
from p2pd.peer.service import PeerService
from p2pd.wire import messages as m
from p2pd.wire.codec import encode
from tests.rig.quiet import OTHER, EmptyIndex, Quiet

FILE = "ab" * 32
THIRD = PeerId("33" * 16)


@attrs.frozen
class Entry:
    name: str
    key: Any = attrs.field(factory=lambda: type("Key", (), {"size": 1}))


class OneFile(EmptyIndex):
    """A share with one file, whose hash is known."""

    async def find(self, name: str) -> Any:
        return Entry(name)

    async def manifest(self, name: str, piece_size: int) -> Any:
        return type("Hashed", (), {"size": 1, "piece_size": 65536, "file_id": FILE})


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Quiet]:
    quiet = Quiet().introduce()
    quiet.index = OneFile()
    asks = [quiet.conversation.other, Other(THIRD, "third", "10.0.0.3", 7003)]
    monkeypatch.setattr(quiet.stock, "who_asks", lambda name: asks)
    quiet.heard()
    yield quiet
    quiet.end()


def told(quiet: Quiet) -> list[m.PeerRow]:
    quiet.say(encode(m.Req(1, "f", 0)))
    (have,) = [event for event in quiet.heard() if isinstance(event, m.Have)]
    return have.others


def listed(*peers: PeerId) -> dict[PeerId, PeerInfo]:
    return {peer: PeerInfo(peer, peer[:4], "10.0.0.9", 7009) for peer in peers}


def test_who_asks_hears_of_others_who_ask(quiet: Quiet) -> None:
    assert told(quiet) == [m.PeerRow(THIRD, "third", "10.0.0.3", 7003)]


def test_not_of_those_whom_both_know_from_the_manager(quiet: Quiet) -> None:
    quiet.roster = listed(PeerId(OTHER), THIRD)
    assert told(quiet) == []


def test_but_of_those_whom_only_we_know(quiet: Quiet) -> None:
    quiet.roster = listed(THIRD)  # the asker is not on the manager's list
    assert [row.id for row in told(quiet)] == [THIRD]


def test_and_of_all_where_so_many_are_listed_that_not_everybody_is_asked(quiet: Quiet) -> None:
    many = [PeerId(f"{number:032x}") for number in range(ALL_BELOW)]
    quiet.roster = listed(PeerId(OTHER), THIRD, *many)
    assert [row.id for row in told(quiet)] == [THIRD]


@pytest.mark.parametrize("state", ["connected", "connecting"])
def test_while_the_manager_is_away_its_list_is_not_what_everybody_knows(state: str) -> None:
    uplink = SimpleNamespace(state=state, peers=listed(THIRD))
    service: Any = SimpleNamespace(_uplink=uplink)
    assert (THIRD in PeerService.listed(service)) == (state == "connected")
