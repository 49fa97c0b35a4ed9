"""How much may be sent ahead to us: when there is a limit, which one, and what the kernel makes of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.net.fast import WAKE_AT, FastServer
from p2pd.net.tcpinfo import incoming
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
    SEGMENTS,
    STEP,
    TRIAL,
    Ahead,
    Windows,
    window,
)

SPAN = 0.25
SEGMENT = 1400
SO_BUF_LOCK = 72


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
            said.append(self.windows.measured(self.now, [rate / MANY] * used))
        return said


def test_few_are_not_limited() -> None:
    receiver = Receiver()
    assert receiver.comes(1e6, 5.0, used=MANY - 1) == [None] * 20
    assert receiver.comes(1e6, used=MANY) == [ENOUGH]
    assert receiver.comes(IN_USE * MANY * 0.9, used=MANY) == [None], "of those little comes"
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
    """Who sends and who receives, on two addresses of this machine, in segments as they are on a network."""
    with socket.socket() as server, socket.socket() as sender:
        for each in (server, sender):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        server.bind(("127.0.0.2", 0))
        server.listen()
        sender.bind(("127.0.0.1", 0))
        sender.connect(server.getsockname())
        receiver, _ = server.accept()
        with receiver:
            yield sender, receiver


@pytest.fixture
def ahead(pair: tuple[socket.socket, socket.socket]) -> Ahead:
    """Of the receiver."""
    try:
        return Ahead(pair[1])
    except OSError:
        pytest.skip("the system has no such limits")


def buffer(receiver: socket.socket) -> int:
    """Bytes that the kernel gives to what was not read yet, half of which are data."""
    return receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def clamp(receiver: socket.socket) -> int:
    """The largest window that it names, in bytes."""
    return receiver.getsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP)


def locked(receiver: socket.socket) -> bool:
    """The kernel may not change the buffer."""
    return bool(receiver.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK))


def unread(sender: socket.socket, receiver: socket.socket) -> tuple[int, int]:
    """Bytes that get there while nobody reads; and that were sent."""
    sent = 0
    sender.setblocking(False)
    try:
        while True:
            sent += sender.send(bytes(65536))
    except BlockingIOError:
        pass
    finally:
        sender.setblocking(True)
    return len(receiver.recv(2**24, socket.MSG_PEEK)), sent


def pour(sender: socket.socket, receiver: socket.socket, count: int) -> None:
    """As much as that goes through."""
    sending = threading.Thread(target=sender.sendall, args=(bytes(count),))
    sending.start()
    left = count
    while left:
        left -= len(receiver.recv(left))
    sending.join()


def held(pair: tuple[socket.socket, socket.socket], ahead: Ahead, count: int) -> None:
    """Limited, all that was promised before has come, and the buffer is as small."""
    ahead.look(0.0)
    ahead.let(count)
    pour(*pair, 2**25)
    ahead.look(0.0)
    ahead.let(count)
    assert buffer(pair[1]) == count


def test_a_limit_holds_once_what_was_promised_before_has_come(
    pair: tuple[socket.socket, socket.socket], ahead: Ahead
) -> None:
    sender, receiver = pair
    pour(sender, receiver, 2**24)
    before = buffer(receiver)
    promised = incoming(receiver)
    assert promised is not None
    for now in (1.0, 2.0, 3.0):
        ahead.look(now)
        ahead.let(LEAST)
        assert buffer(receiver) == before > LEAST, "what is under way is not to be dropped"
        assert (clamp(receiver), locked(receiver)) == (LEAST, True)
    pour(sender, receiver, promised.promised or 2 * before)
    ahead.look(4.0)
    ahead.let(LEAST)
    assert buffer(receiver) == LEAST
    assert unread(sender, receiver)[0] <= 2 * LEAST


def test_what_waits_and_would_be_dropped_is_read_first(
    pair: tuple[socket.socket, socket.socket], ahead: Ahead
) -> None:
    sender, receiver = pair
    pour(sender, receiver, 2**24)
    ahead.look(1.0)
    before = buffer(receiver)
    waits, sent = unread(sender, receiver)
    assert waits > 4 * LEAST
    ahead.let(LEAST)
    ahead._free_at = 0
    ahead.look(2.0)
    ahead.let(LEAST)
    assert buffer(receiver) == before
    receiver.recv(sent, socket.MSG_WAITALL)
    ahead.look(3.0)
    ahead.let(LEAST)
    assert buffer(receiver) == LEAST


def test_without_a_limit_there_is_as_much_room_as_before(
    pair: tuple[socket.socket, socket.socket], ahead: Ahead
) -> None:
    sender, receiver = pair
    pour(sender, receiver, 2**26)
    before, free = buffer(receiver), clamp(receiver)
    assert before > 4 * MOST
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 77)
    held(pair, ahead, 2 * LEAST)
    held(pair, ahead, LEAST)
    ahead.let(LEAST // 2)  # only promised when it is lifted
    ahead.let(None)
    assert (ahead.limit, locked(receiver)) == (None, False)
    assert buffer(receiver) >= before / 2, "the kernel would not give it again by itself"
    assert clamp(receiver) >= free / 2
    assert receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 77


def test_a_new_connection_that_was_limited_may_grow(
    pair: tuple[socket.socket, socket.socket], ahead: Ahead
) -> None:
    receiver = pair[1]
    held(pair, ahead, LEAST)
    ahead.let(None)
    assert not locked(receiver)
    assert min(buffer(receiver), clamp(receiver)) >= MOST


def test_rates_swing_and_the_limit_does_not(pair: tuple[socket.socket, socket.socket], ahead: Ahead) -> None:
    held(pair, ahead, LEAST)
    limits = []
    for count in (64 * 1024, 63 * 1024, 49 * 1024, 48 * 1024, 96 * 1024, 96 * 1024):
        ahead.look(0.0)
        ahead.let(count)
        limits.append((ahead.limit, clamp(pair[1])))
        if count == 48 * 1024:
            assert buffer(pair[1]) == 64 * 1024, "what was promised may be under way"
    kib = [(limit and limit // 1024, named // 1024) for limit, named in limits]
    assert kib == [(64, 64), (64, 64), (64, 64), (48, 48), (96, 96), (96, 96)]


def test_what_comes_is_measured_between_two_looks(
    pair: tuple[socket.socket, socket.socket], ahead: Ahead
) -> None:
    ahead.look(1.0)
    assert ahead.rate is None
    assert ahead.wanted(0.08, LEAST) is None
    pour(*pair, 2**20)
    ahead.look(1.5)
    assert ahead.rate == 2**21
    pair[0].sendall(bytes(2**18))
    pair[1].recv(2**18, socket.MSG_PEEK | socket.MSG_WAITALL)
    ahead.look(2.0)
    assert ahead.rate == 2**19, "also what was not read yet"
    told = incoming(pair[1])
    assert told is not None
    assert ahead.wanted(0.08, LEAST) == window(2**19, told.latency, 0.08, LEAST)
    ahead.look(2.0 + TRIAL + 0.1)
    assert ahead.rate is None, "it is too long ago"


@pytest.mark.usefixtures("ahead")
def test_a_limit_is_never_less_than_some_segments() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        sender = socket.create_connection(server.getsockname(), source_address=("127.0.0.1", 0))
        receiver, _ = server.accept()
    with sender, receiver:
        told = incoming(receiver)
        assert told is not None
        assert told.segment > ENOUGH / SEGMENTS, "of the loopback device they are long"
        ahead = Ahead(receiver)
        ahead.look(1.0)
        ahead.look(2.0)
        wanted = ahead.wanted(0.0, LEAST)
        assert wanted is None or wanted >= SEGMENTS * told.segment


def test_a_connection_that_was_lost_is_limited_without_a_fault(
    pair: tuple[socket.socket, socket.socket], ahead: Ahead
) -> None:
    ahead.look(1.0)
    ahead.let(LEAST)
    pair[1].close()
    ahead.let(2 * LEAST)
    ahead.let(None)
    ahead.let(LEAST)
    ahead.look(2.0)
    assert (ahead.limit, ahead.rate) == (None, None)


@pytest.mark.parametrize("answer", [0, 3], ids=["nothing", "something else"])
def test_where_the_system_cannot_lift_a_limit_there_is_none(
    pair: tuple[socket.socket, socket.socket], answer: int
) -> None:
    class Deaf:
        """Takes any option, and says the same always."""

        def setsockopt(self, *_: object) -> None: ...

        def getsockopt(self, level: int, option: int, length: int = 0) -> int | bytes:
            return pair[1].getsockopt(level, option, length) if length else answer

    with pytest.raises(OSError, match="no limits"):
        Ahead(Deaf())  # type: ignore[arg-type]


def test_of_what_is_not_tcp_there_is_none() -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(OSError, match=r"no limits|not supported"):
        Ahead(one)


def transport(receiver: socket.socket) -> FastServer:
    """Connected, as far as what it waits for goes."""
    made = FastServer.__new__(FastServer)
    made.socket = receiver
    made.connected = True
    made.disconnected = False
    made.tune()
    return made


@pytest.mark.usefixtures("ahead")
def test_a_machine_is_limited_by_the_other_one_only(pair: tuple[socket.socket, socket.socket]) -> None:
    assert transport(pair[1]).ahead is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        near = transport(accepted)
        assert near.ahead is None
        near.let_ahead(LEAST)


@pytest.mark.usefixtures("ahead")
def test_nobody_waits_for_us_because_all_that_he_may_send_is_here(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    def waits() -> int:
        return pair[1].getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    receiver = transport(pair[1])
    assert receiver.ahead is not None
    receiver._wake_at(10 * WAKE_AT)
    assert waits() == WAKE_AT
    receiver.ahead.look(1.0)
    receiver.let_ahead(LEAST)
    assert waits() == LEAST // 2, "at once"
    receiver._wake_at(10 * WAKE_AT)
    assert waits() == LEAST // 2
    receiver._wake_at(0)
    receiver.let_ahead(2 * LEAST)
    assert waits() == 1
    receiver.let_ahead(None)
    receiver._wake_at(10 * WAKE_AT)
    assert waits() == WAKE_AT
    receiver.disconnected = True
    receiver.let_ahead(LEAST)
    assert receiver.ahead.limit is None
