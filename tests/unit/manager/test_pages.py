from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.manager.pages import ChangeLines, Pages
from p2pd.manager.registry import MAX_BATCH, Announcement, Registry
from p2pd.model import PeerId
from p2pd.wire.codec import decode_line
from p2pd.wire.fields import is_peer_name
from p2pd.wire.messages import MANAGER_TO_PEER, MAX_LINE, PeerRow

names = st.text(min_size=1, max_size=80).filter(is_peer_name)


def decoded(lines: Any) -> Any:
    parts = lines.split(b"\n")
    assert parts.pop() == b""
    assert all(len(part) < MAX_LINE for part in parts)
    return [decode_line(part, MANAGER_TO_PEER) for part in parts]


def filled(names_given: Any, observed: str = "10.0.0.5") -> Any:
    registry = Registry(30, lambda _host: False)
    for number, name in enumerate(names_given):
        peer = PeerId(f"{number:032x}")
        registry.join(Announcement(peer, name, 7001, ["0.0.0.0"]), observed, 0)
    return registry


@given(st.lists(names, unique_by=lambda name: name.casefold(), max_size=8))
@settings(max_examples=50)
def test_what_is_written_by_hand_is_what_the_codec_reads(given_names: list[str]) -> None:
    try:
        registry = filled(given_names)
    except Exception:  # names that are the same after normalisation
        return
    pages = Pages(registry)
    batches = registry.flush()
    pages.flushed(batches)
    rows = [PeerRow(info.id, info.name, info.host, info.port) for info in registry.rows("x")]
    (page,) = decoded(pages.whole("x"))
    assert (page.serial, page.page, page.last, page.rows) == (len(batches), 0, True, rows)
    if batches:
        (changes,) = decoded(ChangeLines(batches).of("x"))
        assert (changes.serial, changes.joined, changes.left) == (1, rows, [])


def test_the_longest_names_fit_into_lines() -> None:
    longest = [f"{number:03}" + "\U0001f600" * 63 for number in range(300)]
    registry = filled(longest, "fe80:1111:2222:3333:4444:5555:6666:7777%interface123456")
    pages = Pages(registry)
    batches = registry.flush()
    pages.flushed(batches)
    whole = decoded(pages.whole("x"))
    assert len(whole) > 3
    assert [page.page for page in whole] == list(range(len(whole)))
    assert [page.last for page in whole] == [False] * (len(whole) - 1) + [True]
    assert [row.name for page in whole for row in page.rows] == longest
    changes = decoded(ChangeLines(batches).of("x"))
    assert sum(len(each.joined) for each in changes) == 300
    assert len(changes) == -(-300 // MAX_BATCH)


def test_a_list_is_encoded_once_for_all_who_see_the_same() -> None:
    registry = filled(["a", "b"])
    pages = Pages(registry)
    pages.flushed(registry.flush())
    assert pages.whole("10.0.0.5") is pages.whole("10.0.0.6")
    batches = registry.flush()
    assert batches == []
    registry.leave(PeerId("0" * 32))
    batches = registry.flush()
    pages.flushed(batches)
    assert [row.name for row in decoded(pages.whole("10.0.0.5"))[0].rows] == ["b"]
    lines = ChangeLines(batches)
    assert lines.of("10.0.0.5") is lines.of("10.0.0.6")
