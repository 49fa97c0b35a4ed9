import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.errors import RefusedError
from p2pd.manager.registry import MAX_BATCH, Announcement, Registry
from p2pd.model import PeerId, PeerInfo

OWN = {"127.0.0.1", "::1", "10.0.0.1", "fd00::1"}
LEASE = 30.0


def make(known: Any = ()) -> Any:
    cookies = (f"cookie-{number}" for number in itertools.count())
    return Registry(LEASE, OWN.__contains__, known, lambda: next(cookies))


def peer(number: int) -> Any:
    return PeerId(f"{number:032x}")


def said(number: int, name: str | None = None, listen: Any = ("0.0.0.0",), **more: Any) -> Any:
    return Announcement(peer(number), name or f"p{number}", 7000 + number, listen, **more)


@pytest.mark.parametrize(
    ("listen", "observed", "host", "machine"),
    [
        # on the manager's machine
        (["0.0.0.0"], "127.0.0.1", "", None),
        (["::"], "::1", "", None),
        (["0.0.0.0"], "10.0.0.1", "", None),
        (["10.0.0.1"], "127.0.0.1", "10.0.0.1", None),
        (["127.0.0.1", "10.0.0.1"], "127.0.0.1", "10.0.0.1", None),
        (["10.9.9.9"], "127.0.0.1", "", None),
        (["127.0.0.1", "::1"], "127.0.0.1", "127.0.0.1", ""),
        (["::1"], "127.0.0.1", "::1", ""),
        (["127.0.0.1"], "10.0.0.1", "127.0.0.1", ""),
        # elsewhere
        (["0.0.0.0"], "10.0.0.5", "10.0.0.5", None),
        (["::"], "fd00::5", "fd00::5", None),
        (["10.0.0.5"], "10.0.0.5", "10.0.0.5", None),
        (["::ffff:10.0.0.5"], "10.0.0.5", "10.0.0.5", None),
        (["10.0.0.1"], "10.0.0.5", "10.0.0.5", None),
        (["127.0.0.1"], "10.0.0.5", "127.0.0.1", "10.0.0.5"),
        ([], "10.0.0.5", "10.0.0.5", None),
        (["nonsense", "0.0.0.0"], "10.0.0.5", "10.0.0.5", None),
    ],
)
def test_where_a_peer_is_shown(listen: Any, observed: str, host: str, machine: Any) -> None:
    placed = make().place(said(1, listen=listen), observed)
    assert (placed.host, placed.machine) == (host, machine)


def test_problems_are_said_where_others_cannot_reach_a_peer() -> None:
    registry = make()
    assert "--host" in registry.place(said(1, listen=["127.0.0.1"]), "10.0.0.5").problem
    assert "--advertise" in registry.place(said(1, listen=["10.0.0.6"]), "10.0.0.5").problem
    assert "IPv4" in registry.place(said(1, listen=["0.0.0.0"]), "fd00::5").problem
    assert registry.place(said(1, listen=["127.0.0.1"]), "127.0.0.1").problem == ""


def test_an_advertised_address_is_shown_in_its_canonical_form() -> None:
    placed = make().place(said(1, advertise="::ffff:203.0.113.7"), "10.0.0.5")
    assert (placed.host, placed.machine) == ("203.0.113.7", None)


@pytest.mark.parametrize(
    "text", ["0.0.0.0", "::", "lab", "224.0.0.1", "255.255.255.255", "1.2.3", "::ffff:0.0.0.0"]
)
def test_what_cannot_be_dialled_cannot_be_advertised(text: str) -> None:
    registry = make()
    with pytest.raises(RefusedError, match="advertise"):
        registry.join(said(1, advertise=text), "10.0.0.5", 0)
    assert len(registry) == 0


def test_a_name_is_one_active_peers() -> None:
    registry = make()
    registry.join(said(1, name="lab"), "10.0.0.5", 0)
    with pytest.raises(RefusedError, match="name lab is taken"):
        registry.join(said(2, name="lab"), "10.0.0.6", 1)
    registry.leave(peer(1))
    registry.join(said(2, name="lab"), "10.0.0.6", 2)


def test_names_that_look_the_same_are_the_same() -> None:
    registry = make()
    registry.join(said(1, name="caf\u00e9"), "10.0.0.5", 0)
    with pytest.raises(RefusedError):
        registry.join(said(2, name="cafe\u0301"), "10.0.0.6", 1)


@pytest.mark.fault(71, 79)
def test_the_cookie_replaces_an_entry_that_still_hangs_there() -> None:
    registry = make()
    cookie = registry.join(said(1, name="lab"), "10.0.0.5", 0).cookie
    with pytest.raises(RefusedError, match="cookie"):
        registry.join(said(1, name="lab"), "10.0.0.6", 1)
    with pytest.raises(RefusedError, match="cookie"):
        registry.join(said(1, cookie="another"), "10.0.0.6", 1)
    again = registry.join(said(1, name="new-name", cookie=cookie), "10.0.0.6", 1)
    assert again.cookie == cookie
    assert [each.info.name for each in registry.active] == ["new-name"]
    registry.join(said(2, name="lab"), "10.0.0.7", 2)  # the old name is free


def test_cookies_of_earlier_runs_hold() -> None:
    first = make()
    joined = first.join(said(1), "10.0.0.5", 0)
    second = make([(peer(1), joined.cookie_hash)])
    assert second.join(said(1, cookie=joined.cookie), "10.0.0.5", 0).cookie == joined.cookie
    # what is loaded late does not undo what came meanwhile
    second.remember([(peer(1), "0" * 64)])
    assert second.join(said(1, cookie=joined.cookie), "10.0.0.5", 1).cookie == joined.cookie


def test_a_peer_that_lost_its_cookie_gets_another_one() -> None:
    registry = make()
    first = registry.join(said(1), "10.0.0.5", 0).cookie
    registry.leave(peer(1))
    assert registry.join(said(1), "10.0.0.5", 1).cookie not in ("", first)


def test_leases_lapse() -> None:
    registry = make()
    registry.join(said(1), "10.0.0.5", 0)
    registry.join(said(2), "10.0.0.6", 0)
    registry.touch(peer(2), 20)
    assert registry.expire(LEASE) == []
    assert registry.expire(LEASE + 1) == [peer(1)]
    assert registry.expire(51) == [peer(2)]
    assert len(registry) == 0


def test_changes_are_numbered_and_cancel_out() -> None:
    registry = make()
    registry.join(said(1), "10.0.0.5", 0)
    (batch,) = registry.flush()
    assert batch.serial == registry.serial == 1
    assert [info.name for info in batch.public.joined] == ["p1"]
    assert registry.flush() == []
    registry.join(said(2), "10.0.0.6", 0)
    registry.leave(peer(2))
    assert registry.flush() == []
    assert registry.serial == 1
    registry.leave(peer(1))
    (batch,) = registry.flush()
    assert batch.public.left == (peer(1),)


def test_loopback_peers_are_seen_on_their_own_machine_only() -> None:
    registry = make()
    registry.join(said(1, listen=["127.0.0.1"]), "127.0.0.1", 0)
    registry.join(said(2, listen=["127.0.0.1"]), "10.0.0.5", 0)
    registry.join(said(3), "10.0.0.6", 0)
    (batch,) = registry.flush()
    for machine, names in {"": {"p1", "p3"}, "10.0.0.5": {"p2", "p3"}, "10.0.0.6": {"p3"}}.items():
        assert {info.name for info in registry.rows(machine)} == names
        assert {info.name for info in batch.seen_by(machine).joined} == names
    assert registry.special_machines() == {"", "10.0.0.5"}


def test_a_storm_is_cut_into_batches() -> None:
    registry = make()
    for number in range(MAX_BATCH * 2 + 1):
        registry.join(said(number), "10.0.0.5", 0)
    assert [batch.serial for batch in registry.flush()] == [1, 2, 3]


steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "flush", "tick"]),
        st.integers(0, 4),
        st.sampled_from(["127.0.0.1", "10.0.0.5", "10.0.0.6"]),
        st.sampled_from([("0.0.0.0",), ("127.0.0.1",), ("10.0.0.1",)]),
        st.integers(0, 2),
    ),
    max_size=60,
)


@given(steps)
def test_whoever_applies_the_changes_has_the_list(story: Any) -> None:
    """For every audience: the first list plus all changes is the list, without a gap in the numbers."""
    registry = make()
    cookies: dict[int, str] = {}
    views: dict[str, dict[PeerId, PeerInfo]] = {"": {}, "10.0.0.5": {}, "10.0.0.6": {}}
    serial, now = 0, 0.0
    for what, number, observed, listen, name in [*story, ("flush", 0, "", (), 0)]:
        if what == "join":
            try:
                joined = registry.join(
                    said(number, f"name{name}", listen, cookie=cookies.get(number, "")), observed, now
                )
                cookies[number] = joined.cookie
            except RefusedError:
                pass
        elif what == "leave":
            registry.leave(peer(number))
        elif what == "tick":
            now += 20
            registry.expire(now)
        else:
            for batch in registry.flush():
                serial += 1
                assert batch.serial == serial
                for machine, view in views.items():
                    change = batch.seen_by(machine)
                    for left in change.left:
                        view.pop(left, None)
                    view.update((info.id, info) for info in change.joined)
            for machine, view in views.items():
                assert list(sorted(view.items())) == sorted(
                    (info.id, info) for info in registry.rows(machine)
                )
        names = [each.info.name for each in registry.active]
        assert len(names) == len(set(names))
