"""The log's way out: it never waits, never raises, and says what it lost."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, formatEventAsClassicLogText

from p2pd.net.console import (
    GATHER,
    MAX_WAITING,
    Console,
    FileOut,
    PipeOut,
    console_for,
    for_twistd,
    often,
)
from p2pd.net.flood import OFTEN, RARE, Limiter


def test_so_many_of_a_kind_at_once_and_so_many_per_second() -> None:
    limiter = Limiter()
    burst, rate = RARE
    assert [limiter.allows("a", False, 5.0) for _ in range(int(burst) + 7)].count(True) == burst
    assert limiter.allows("b", False, 5.0), "each kind has its own"
    assert limiter.report() == [("a", 7)]
    assert limiter.report() == []
    assert [limiter.allows("a", False, 7.0) for _ in range(100)].count(True) == 2 * rate
    assert [limiter.allows("a", False, 1e6) for _ in range(2000)].count(True) == burst, "and no more is saved"
    assert [limiter.allows("c", True, 5.0) for _ in range(int(OFTEN[0]) + 1)].count(True) == OFTEN[0]


class List:
    """An Out that keeps lines."""

    waiting = False

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.writes = 0

    def write(self, *lines: str) -> None:
        self.writes += 1
        self.lines.extend(lines)

    def flush(self) -> None:
        pass


class Reactor(Clock):
    """A clock with what a reactor has besides."""

    def callFromThread(self, work: Any, *args: Any) -> None:
        self.callLater(0, work, *args)

    def addSystemEventTrigger(self, phase: str, event: str, work: Any) -> None:
        self.at_end = work


def test_how_many_were_suppressed_is_said_soon_also_when_nothing_follows() -> None:
    reactor, out = Reactor(), List()
    console = Console(out, reactor.seconds)
    console.attach(reactor)
    log = Logger("test", observer=console)
    for number in range(1000):
        log.info("{name} is dropped", name=f"peer {number}")
    log.info("something else")
    assert sum("is dropped" in line for line in out.lines) == RARE[0]
    assert "something else" in out.lines[-1]
    reactor.pump([0.5] * 10)
    assert out.lines[-1].endswith("700 more lines suppressed: {name} is dropped\n")
    log.info("{name} is dropped", name="a late one")
    assert "a late one is dropped" in out.lines[-1]
    assert reactor.getDelayedCalls() == []


def test_what_is_unlimited_is_never_suppressed() -> None:
    out = List()
    log = Logger("test", observer=Console(out))
    for _ in range(5000):
        log.info("row", unlimited=True)
    assert len(out.lines) == 5000


def read_all(descriptor: int) -> str:
    data = b""
    os.set_blocking(descriptor, False)
    try:
        while part := os.read(descriptor, 65536):
            data += part
    except BlockingIOError:
        pass
    return data.decode()


def test_a_reader_that_stalls_loses_lines_and_is_told_how_many() -> None:
    reading, writing = os.pipe()
    out = PipeOut(writing)
    line = "x" * 99 + "\n"
    count = (MAX_WAITING + 65536) // 100 + 500
    for _ in range(count):
        out.write(line)  # would hang here if it waited
    assert out.waiting
    said = ""
    while out.waiting:
        said += read_all(reading)
        out.flush()
    said += read_all(reading)
    lines = said.splitlines(keepends=True)
    kept = lines.count(line)
    (lost,) = [each for each in lines if "were lost here" in each]
    assert f" {count - kept} lines" in lost
    assert kept >= MAX_WAITING // 100
    out.write("after\n")
    assert read_all(reading) == "after\n"
    os.close(reading)
    out.write("nobody\n")
    assert not out.waiting, "who has gone is not waited for"
    out.write("nobody\n")
    os.close(writing)


def test_a_full_device_costs_lines_only() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    out = PipeOut(descriptor)
    for _ in range(5000):
        out.write("x" * 99 + "\n")
    assert out.waiting, "tried again later"
    os.close(descriptor)


def test_no_descriptor_takes_everything() -> None:
    out = PipeOut(None)
    out.write("x\n")
    out.flush()
    assert not out.waiting


def test_a_log_file_that_fails_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    out = FileOut(str(path))
    out.write("one\n")
    real = out._file.write

    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(out._file, "write", full)
    out.write("two\n")
    out.write("three\n")
    monkeypatch.setattr(out._file, "write", real)
    out.write("four\n")
    lines = path.read_text().splitlines()
    assert lines[0] == "one"
    assert " 2 lines of the log were lost here" in lines[2]
    assert lines[3] == "four"
    out._file.close()  # as turning over leaves it on a full disk
    out.write("five\n")
    out.write("six\n")
    assert path.read_text().endswith("six\n")


def test_lines_from_threads_stay_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT)
    console = Console(PipeOut(descriptor))
    log = Logger("test", observer=console)

    def work() -> None:
        for _ in range(500):
            log.info("{text}", text="y" * 5000, often=True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(descriptor)
    lines = out.read_text().splitlines()
    assert len(lines) == 2000
    assert {line[-5000:] for line in lines} == {"y" * 5000}


def test_twistds_options_say_where(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="stdout"):
        console_for({"logfile": "-", "nodaemon": False})
    console = console_for({"logfile": str(tmp_path / "log"), "nodaemon": True})
    Logger("test", observer=console).info("hello")
    assert "[test#info] hello" in (tmp_path / "log").read_text()


def test_a_terminal_whose_reader_stalls_is_not_waited_for() -> None:
    master, slave = os.openpty()
    try:
        out, ended = PipeOut(slave), threading.Event()

        def say_much() -> None:
            for number in range(2000):
                out.write(f"line {number:04} {'x' * 80}\n")
            ended.set()

        threading.Thread(target=say_much, daemon=True).start()
        assert ended.wait(30)
        assert out.waiting
        said = b""
        while out.waiting or b"line 1999" not in said:
            said += os.read(master, 65536)
            out.flush()
        assert [int(line.split()[1]) for line in said.splitlines()] == list(range(2000))
    finally:
        os.close(master)
        os.close(slave)


def test_lines_of_which_there_are_many_are_written_together_and_in_order() -> None:
    out, clock = List(), Reactor()
    console = Console(out, clock.seconds)
    console.attach(clock)
    log = Logger("p2pd.peer", observer=console)

    def note(number: int) -> None:
        console.often("p2pd.peer", "sent", f"sent piece {number} of f")

    note(0)
    assert out.writes == 1  # nothing had been written for long: at once
    for number in range(1, 5):
        note(number)
    assert out.writes == 1
    clock.advance(0)
    clock.advance(GATHER)
    assert out.writes == 2
    note(5)
    note(6)
    log.info("f is complete")
    assert out.writes == 3
    said = [line.split("] ")[1] for line in out.lines]
    assert said == [f"sent piece {number} of f\n" for number in range(7)] + ["f is complete\n"]
    note(7)
    clock.at_end()
    assert out.lines[-1].endswith("sent piece 7 of f\n")


def test_a_gathered_line_looks_as_twisted_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[LogEvent] = []
    log = Logger("p2pd.peer", observer=events.append)  # type: ignore[arg-type]
    assert for_twistd.console is None
    often(log, "sent", "sent piece 1")
    out = List()
    monkeypatch.setattr(for_twistd, "console", Console(out))
    monkeypatch.setattr("time.time", lambda: events[0]["log_time"])
    often(log, "sent", "sent piece 1")
    assert len(events) == 1
    assert out.lines == [formatEventAsClassicLogText(events[0])]


def test_of_lines_of_which_there_are_many_so_many_are_let_through() -> None:
    clock, out = Reactor(), List()
    console = Console(out, clock.seconds)
    console.attach(clock)
    for number in range(int(OFTEN[0]) + 7):
        console.often("p2pd.peer", "sent", f"sent piece {number} of f")
    clock.pump([0.5] * 10)
    assert sum("sent piece" in line for line in out.lines) == OFTEN[0]
    assert out.lines[-1].endswith("7 more lines suppressed: sent ...\n")
