"""Who is let in: in all, from one address, before they said who they are; and how fast lines are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.net.door import MAX_PENDING, Door, Visit, share
from p2pd.net.pace import AT_ONCE, COUNTED, PER_SECOND, Pace

HOSTS = ["10.0.0.5", "10.0.0.6", "::ffff:10.0.0.5", "2001:db8::1", "2001:db8::2", "127.0.0.1", "::1", ""]


def enter(door: Door, host: str) -> Visit:
    visit = door.enter(host)
    visit.introduced()
    return visit


@pytest.mark.fault(18)
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 8, 200, 1000])
def test_one_address_never_takes_the_last_places(limit: int) -> None:
    door = Door(limit)
    while door.refusal("10.0.0.5") is None:
        enter(door, "10.0.0.5")
    assert len(door) == share(limit)
    assert limit == 1 or door.refusal("10.0.0.6") is None
    if limit > 1:
        assert "full for 10.0.0.5" in str(door.refusal("::ffff:10.0.0.5"))


@pytest.mark.fault(18)
def test_an_ipv6_machine_counts_as_its_network() -> None:
    door = Door(8)
    for number in range(share(8)):
        enter(door, f"2001:db8::{number:x}")
    assert door.refusal("2001:db8::ffff") is not None
    assert door.refusal("2001:db8:0:1::1") is None
    assert door.refusal("fe80::1%eth0") is None


@pytest.mark.fault(18)
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1"])
def test_many_peers_on_this_machine_may_have_all_places(host: str) -> None:
    door = Door(8)
    for _ in range(8):
        assert door.refusal(host) is None
        enter(door, host)
    assert door.refusal(host) == "full (8 connections)"


@pytest.mark.fault(4)
def test_those_who_do_not_say_who_they_are() -> None:
    door = Door(1000)
    waiting = [door.enter("127.0.0.1") for _ in range(MAX_PENDING)]
    assert "busy" in str(door.refusal("127.0.0.1"))
    assert door.refusal("127.0.0.1", listening=False) is None
    waiting[0].introduced()
    assert door.refusal("127.0.0.1") is None
    door.enter("127.0.0.1")
    waiting[1].left()
    assert door.refusal("127.0.0.1") is None


@pytest.mark.fault(4, 18)
def test_one_address_leaves_room_for_others_to_say_who_they_are() -> None:
    door = Door(1000)
    for _ in range(share(MAX_PENDING)):
        assert door.refusal("10.0.0.5") is None
        door.enter("10.0.0.5")
    assert "busy" in str(door.refusal("10.0.0.5"))
    assert door.refusal("10.0.0.6") is None


@pytest.mark.fault(4, 17, 18)
@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.sampled_from("eils"), st.sampled_from(HOSTS), st.integers(0, 9))),
)
def test_whatever_they_do_nobody_is_counted_twice(limit: int, moves: list[tuple[str, str, int]]) -> None:
    door = Door(limit)
    inside: list[tuple[str, Visit]] = []
    for move, host, number in moves:
        if move == "e" and door.refusal(host) is None:
            inside.append((host, door.enter(host)))
        elif inside and move == "i":
            inside[number % len(inside)][1].introduced()
        elif inside and move == "l":
            inside.pop(number % len(inside))[1].left()
        elif inside and move == "s":  # said twice
            visit = inside.pop(number % len(inside))[1]
            visit.left()
            visit.left()
        assert len(door) == len(inside) <= limit
        assert sum("10.0.0.5" in host for host, _ in inside) <= share(limit)
        assert sum("2001" in host for host, _ in inside) <= share(limit)
    for _, visit in inside:
        visit.left()
    assert len(door) == 0
    assert door.refusal("10.0.0.5") is None


@pytest.mark.fault(9)
@given(st.lists(st.tuples(st.integers(0, 65535), st.floats(0, 0.1)), max_size=3000))
def test_lines_are_taken_no_faster_than_they_may(lines: list[tuple[int, float]]) -> None:
    now = 0.0
    pace = Pace(lambda: now)
    taken = 0
    for length, pause in lines:
        now += pause
        if pace.take(length):
            taken += 1 + length // COUNTED
        assert taken <= AT_ONCE + PER_SECOND * now


@pytest.mark.fault(9)
def test_who_paused_is_read_again() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    while pace.take(10):
        pass
    assert not pace.take(10)
    now += 0.05
    assert sum(pace.take(10) for _ in range(AT_ONCE)) == pytest.approx(0.05 * PER_SECOND, abs=3)
