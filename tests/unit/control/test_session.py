"""What is said on a connection: order, limits, ends."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import pytest

from p2pd import __version__
from p2pd.control.commands import MAX_LINE
from p2pd.control.server import Emit, Limits

if TYPE_CHECKING:
    from tests.unit.control.conftest import Rig

    Test = TypeVar("Test", bound=Callable[..., object])

    def async_test(test: Test) -> Test: ...
else:
    from pytest_twisted import ensureDeferred as async_test


@async_test
async def test_one_answer_after_the_other(rig: Rig) -> None:
    await rig.serve()
    client = rig.client()
    client.send(b"req a\nfiles\n\n  \r\nstatus\r\nreq b\n")
    await rig.handlers.until(lambda: rig.handlers.started == ["a"])
    assert await client.event() == {"event": "started", "transfer": "a"}
    rig.handlers.release("a")
    assert await client.event() == {"event": "done", "name": "a"}
    assert await client.event() == {"event": "item", "name": "a", "size": 1, "id": None}
    assert await client.event() == {"event": "done"}
    assert await client.event() == {"event": "done", "role": "peer", "problems": ["\x1b[31m"]}
    assert (await client.event())["transfer"] == "b"


@async_test
async def test_clients_do_not_wait_for_each_other(rig: Rig) -> None:
    await rig.serve()
    slow, quick = rig.client(), rig.client()
    slow.send(b"req a\n")
    await slow.event()
    quick.send(b"version\n")
    assert await quick.event() == {"event": "done", "version": __version__, "role": "peer"}


@async_test
async def test_half_close_ends_after_the_answers(rig: Rig) -> None:
    await rig.serve()
    client = rig.client()
    client.send(b"req a\nhelp req\nversion")  # the last line feed may lack
    client.socket.shutdown(socket.SHUT_WR)
    await rig.handlers.until(lambda: rig.handlers.started == ["a"])
    rig.handlers.release("a")
    events = await client.rest()
    assert [event["event"] for event in events] == ["started", "done", "done", "done"]
    assert "--sha256" in events[2]["text"]


@pytest.mark.parametrize("half", [False, True])
@async_test
async def test_who_goes_away_is_noticed(rig: Rig, half: bool) -> None:
    await rig.serve(Limits(presence=0.05))
    client = rig.client()
    client.send(b"req a\nreq b\n")
    await client.event()
    if half:
        client.socket.shutdown(socket.SHUT_WR)
    client.socket.close()
    await rig.handlers.until(lambda: rig.handlers.cancelled == ["a"])
    assert rig.handlers.started == ["a"]


@async_test
async def test_who_goes_away_while_held_back_is_noticed(rig: Rig) -> None:
    await rig.serve(Limits(presence=0.05))
    client = rig.client()
    client.send(b"req a\n" + b"version\n" * 20_000)
    await client.event()
    client.socket.close()
    await rig.handlers.until(lambda: rig.handlers.cancelled == ["a"])


@async_test
async def test_wrong_lines_do_not_end_the_connection(rig: Rig) -> None:
    await rig.serve()
    client = rig.client()
    client.send(b"\xff\xfe\n'open\nnonsense\nreq\nreq x --id y\nbye \x1b[31m\nversion\n")
    for _ in range(6):
        event = await client.event()
        assert (event["event"], event["code"]) == ("failed", "usage")
        assert event["message"].isprintable()
    assert (await client.event())["event"] == "done"


@async_test
async def test_a_command_that_the_role_has_not(rig: Rig) -> None:
    await rig.serve(role="manager")
    client = rig.client()
    client.send(b"req x\nhelp\n")
    event = await client.event()
    assert (event["code"], "manager" in event["message"]) == ("usage", True)
    assert "transfers" not in (await client.event())["text"]


@async_test
async def test_errors_have_codes_and_no_tracebacks(rig: Rig) -> None:
    await rig.serve()
    client = rig.client()
    client.send(b"cancel x\npause x\nresume x\ntransfers\nversion\n")
    conflict = await client.event()
    assert conflict == {
        "event": "failed",
        "code": "conflict",
        "message": "two\\x0alines",
        "variants": [{"id": "x", "size": 1, "holders": ["a"]}],
    }
    mistake = await client.event()
    assert mistake["code"] == "failed"
    assert "secret" not in mistake["message"]
    assert await client.event() == {"event": "failed", "code": "failed", "message": "odd"}
    assert (await client.event())["code"] == "failed"  # NaN is no JSON
    assert (await client.event())["event"] == "done"


@pytest.mark.parametrize("extra", [0, 1])
@async_test
async def test_the_longest_line(rig: Rig, extra: int) -> None:
    await rig.serve()
    client = rig.client()
    client.send(b"x" * (MAX_LINE + extra) + b"\nversion\n")
    events = await client.event(), *(await client.rest() if extra else [await client.event()])
    assert [event["event"] for event in events] == (["failed"] if extra else ["failed", "done"])
    assert ("longer" in events[0]["message"]) == bool(extra)


@async_test
async def test_a_line_without_end_takes_no_memory(rig: Rig) -> None:
    await rig.serve()
    client = rig.client()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    client.send(b"req a\n")
    await client.event()

    def flood() -> int:
        sent, block = 0, b"x" * 65536
        client.socket.settimeout(0.3)
        try:
            while sent < 100 * 1024 * 1024:
                sent += client.socket.send(block)
        except TimeoutError:
            pass
        return sent

    from twisted.internet import threads

    sent = await threads.deferToThread(flood)
    assert sent < 4 * 1024 * 1024  # held back in the kernel while `req a` runs
    rig.handlers.release("a")
    client.socket.settimeout(20)
    assert [event["event"] for event in await client.rest()] == ["done", "failed"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB


@async_test
async def test_many_quick_lines_leave_room_for_others(rig: Rig) -> None:
    await rig.serve()
    many, other = rig.client(), rig.client()
    many.send(b"version\n" * 3000)
    other.send(b"version\n")
    assert (await other.event())["event"] == "done"
    many.socket.shutdown(socket.SHUT_WR)
    assert len(await many.rest()) == 3000


@async_test
async def test_rows_come_as_fast_as_they_are_read(rig: Rig) -> None:
    await rig.serve()
    client = rig.client()
    client.send(b"peers\nversion\n")
    client.socket.shutdown(socket.SHUT_WR)
    events = await client.rest()
    assert len(events) == 50_002
    assert [event["event"] for event in events[-3:]] == ["item", "done", "done"]


@async_test
async def test_who_never_reads_is_cut_off(rig: Rig) -> None:
    await rig.serve(Limits(unread=500_000))

    def burst(emit: Emit) -> None:
        for _ in range(10_000):
            emit({"event": "note", "message": "x" * 1000})

    rig.handlers.burst = burst
    client = rig.client()
    client.send(b"req a\n")
    await rig.handlers.until(lambda: rig.handlers.cancelled == ["a"])
    assert len(await client.rest()) < 2000


@async_test
async def test_who_reads_nothing_for_long_is_cut_off(rig: Rig) -> None:
    await rig.serve(Limits(stall=0.2))
    rig.handlers.burst = lambda emit: emit({"event": "note", "message": "x" * 3_000_000})
    client = rig.client()
    client.send(b"req a\n")
    await rig.handlers.until(lambda: rig.handlers.cancelled == ["a"])


@async_test
async def test_progress_that_nobody_reads_is_dropped(rig: Rig) -> None:
    await rig.serve(Limits(unread=100_000))

    def burst(emit: Emit) -> None:
        for n in range(100_000):
            emit({"event": "progress", "bytes": n, "size": 10**9, "rate": 5})

    rig.handlers.burst = burst
    client = rig.client()
    client.send(b"req a\n")
    await rig.handlers.until(lambda: rig.handlers.started == ["a"])
    rig.handlers.release("a")
    client.socket.shutdown(socket.SHUT_WR)
    events = await client.rest()
    assert events[-1]["event"] == "done"
    assert len(events) < 20_000


@async_test
async def test_what_a_command_says_after_its_end_is_dropped(rig: Rig) -> None:
    await rig.serve()
    kept: list[Emit] = []
    rig.handlers.burst = kept.append
    client = rig.client()
    client.send(b"req a\n")
    await client.event()
    rig.handlers.release("a")
    assert (await client.event())["event"] == "done"
    kept[0]({"event": "note", "message": "late"})
    client.send(b"version\n")
    assert (await client.event())["event"] == "done"
