"""How much may be sent ahead to us: when there is a limit, which one, and what the kernel makes of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.net.fast import WAKE_AT, FastServer
from p2pd.net.windows import (
    BEGINS,
    ENOUGH,
    FELL,
    FREE,
    IN_USE,
    LEAST,
    MANY,
    MOST,
    SECONDS,
    STEP,
    TRIAL,
    Ahead,
    Windows,
    window,
)

SPAN = 0.25


class Receiver:
    """Measures, one window after the other."""

    def __init__(self) -> None:
        self.windows = Windows()
        self.now = 100.0

    def comes(self, rate: float, seconds: float = SPAN, *, used: int = MANY) -> list[int | None]:
        """``rate`` bytes per second together, for so many seconds; what was said in each window."""
        said = []
        for _ in range(round(seconds / SPAN)):
            self.now += SPAN
            said.append(self.windows.measured(self.now, [int(rate * SPAN / MANY)] * used))
        return said


def test_few_are_not_limited() -> None:
    receiver = Receiver()
    assert receiver.comes(1e6, 5.0, used=MANY - 1) == [None] * 20
    assert receiver.comes(1e6, used=MANY) == [ENOUGH]
    assert receiver.comes(IN_USE * MANY / SPAN * 0.9, used=MANY) == [None], "of those little comes"
    assert receiver.comes(1e6) == [ENOUGH]
    receiver.now += TRIAL
    assert receiver.comes(1e6) == [None], "it was quiet for long"


@pytest.mark.parametrize(("rate", "least"), [(1e6, LEAST), (3e6, 48_000), (1e8, ENOUGH)])
def test_the_least_goes_by_all_that_comes_once_that_is_known(rate: float, least: int) -> None:
    receiver = Receiver()
    receiver.comes(0, used=0)
    said = receiver.comes(rate, 10.0)
    known = round(BEGINS / SPAN) - 1
    assert said[:known] == [ENOUGH] * known
    assert set(said[known:]) == {least}


def test_less_that_comes_is_no_reason_to_limit_it_further() -> None:
    receiver = Receiver()
    receiver.comes(3e6, 10.0)
    assert receiver.comes(3e6 * FELL * 1.1, 10.0)[-1] == 48_000


def test_where_the_limit_was_why_less_came_there_is_none_for_long() -> None:
    receiver = Receiver()
    receiver.comes(3e6, 10.0)
    while receiver.comes(1e6) != [None]:
        pass
    free = FREE + TRIAL - 1.0
    assert receiver.comes(3e6, free) == [None] * round(free / SPAN), "so it comes again"
    assert receiver.comes(3e6, 2.0)[-1] is not None


def test_where_it_was_not_the_limit_is_back_after_a_trial() -> None:
    receiver = Receiver()
    receiver.comes(3e6, 10.0)
    while receiver.comes(1e6) != [None]:
        pass
    said = receiver.comes(1e6, 2 * TRIAL)
    trial = round(TRIAL / SPAN) - 1
    assert said[:trial] == [None] * trial
    assert set(said[trial + 1 :]) == {LEAST}
    assert None not in receiver.comes(1e6, 60.0), "what there is now is what there was"


@given(
    rate=st.floats(0, 1e10), latency=st.floats(0, 100), pause=st.floats(0, 0.1),
    least=st.integers(LEAST, ENOUGH),
)  # fmt: skip
def test_a_window_covers_what_comes(rate: float, latency: float, pause: float, least: int) -> None:
    found = window(rate, latency, pause, least)
    wanted = max(rate * (SECONDS + pause + 2 * latency), least)
    if found is None:
        assert wanted > MOST
    else:
        assert least <= found <= MOST
        assert wanted - 1 <= found < wanted + STEP


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Who sends and who receives, on two addresses of this machine."""
    with socket.create_server(("127.0.0.2", 0)) as server:
        sender = socket.create_connection(server.getsockname(), source_address=("127.0.0.1", 0))
        receiver, _ = server.accept()
    with sender, receiver:
        yield sender, receiver


def buffer(receiver: socket.socket) -> int:
    """Bytes that the kernel gives to what was not read yet, half of which are data."""
    return receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def unread(sender: socket.socket, receiver: socket.socket) -> int:
    """Bytes that get there while nobody reads."""
    sender.setblocking(False)
    try:
        while True:
            sender.send(bytes(65536))
    except BlockingIOError:
        pass
    finally:
        sender.setblocking(True)
    return len(receiver.recv(2**24, socket.MSG_PEEK))


def pour(sender: socket.socket, receiver: socket.socket, count: int) -> None:
    """As much as that goes through."""
    sending = threading.Thread(target=sender.sendall, args=(bytes(count),))
    sending.start()
    left = count
    while left:
        left -= len(receiver.recv(left))
    sending.join()


def test_a_limit_holds_once_what_was_promised_before_has_come(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    pour(sender, receiver, 2**24)
    before = buffer(receiver)
    ahead = Ahead(receiver)
    ahead.let(LEAST)
    assert buffer(receiver) == before > LEAST, "what is under way is not to be dropped"
    pour(sender, receiver, 2**22)
    ahead.let(LEAST)
    assert buffer(receiver) == LEAST
    assert unread(sender, receiver) <= 2 * LEAST


def test_without_a_limit_the_kernel_lets_more_come_again(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    ahead = Ahead(receiver)
    for _ in range(2):
        ahead.let(LEAST)
        pour(sender, receiver, 2**20)
    assert buffer(receiver) == LEAST, "by itself it does not grow"
    ahead.let(None)
    assert ahead.limit is None
    assert buffer(receiver) == MOST
    pour(sender, receiver, 2**26)
    assert unread(sender, receiver) > MOST / 2


def test_rates_swing_and_the_limit_does_not(pair: tuple[socket.socket, socket.socket]) -> None:
    ahead = Ahead(pair[1])
    limits = []
    for count in (
        LEAST,
        LEAST,
        64 * 1024,
        63 * 1024,
        49 * 1024,
        48 * 1024,
        128 * 1024,
        128 * 1024,
        None,
        None,
    ):
        ahead.let(count)
        limits.append((ahead.limit, buffer(pair[1])))
    first = limits[0][1]
    kib = [(limit and limit // 1024, held // 1024) for limit, held in limits[1:]]
    assert first > LEAST
    assert kib == [
        (32, 32), (64, 64), (64, 64), (64, 64), (48, 64), (128, 64), (128, 128), (None, 192), (None, 192),
    ]  # fmt: skip


def test_a_connection_that_was_lost_is_limited_without_a_fault(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ahead = Ahead(pair[1])
    pair[1].close()
    ahead.let(LEAST)
    ahead.let(None)
    assert ahead.latency == 0


def test_where_the_system_cannot_lift_a_limit_there_is_none(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET) as closed:
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        Ahead(closed)


def test_a_machine_is_limited_by_the_other_one_only(pair: tuple[socket.socket, socket.socket]) -> None:
    transport = FastServer.__new__(FastServer)
    transport.socket = pair[1]
    transport.tune()
    assert transport.ahead is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        near = FastServer.__new__(FastServer)
        near.socket = accepted
        near.tune()
        assert near.ahead is None


def test_nobody_waits_for_us_because_all_that_he_may_send_is_here(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    transport = FastServer.__new__(FastServer)
    transport.socket = pair[1]
    transport.tune()
    assert transport.ahead is not None
    for limit, waited in ((None, WAKE_AT), (LEAST, LEAST // 2), (LEAST, LEAST // 2), (None, WAKE_AT)):
        transport.ahead.let(limit)
        transport._wake_at(10 * WAKE_AT)
        assert transport._wakes_at == waited
