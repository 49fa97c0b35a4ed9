import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from p2pd.net.notify import STATUS_INTERVAL, Notifier


class Manager:
    """A service manager's end of it."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        try:
            return self.socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return []


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify"), **more}


def test_ready_status_and_stopping(tmp_path: Path, manager: Manager) -> None:
    clock, summary = Clock(), "one"
    notifier = Notifier(clock, environ(tmp_path))
    assert manager.heard() == []
    notifier.ready(lambda: summary)
    assert manager.heard() == ["READY=1", "STATUS=one"]
    clock.advance(STATUS_INTERVAL)
    assert manager.heard() == []  # nothing new
    summary = "two\nSTOPPING=1"
    clock.advance(STATUS_INTERVAL)
    assert manager.heard() == ["STATUS=two STOPPING=1"]
    notifier.stopping()
    assert manager.heard() == ["STOPPING=1", "STATUS=leaving"]
    assert not clock.getDelayedCalls()
    notifier.ready(lambda: summary)
    assert manager.heard() == []


def test_signs_of_life_three_times_as_often_as_wanted(tmp_path: Path, manager: Manager) -> None:
    clock = Clock()
    Notifier(clock, environ(tmp_path, WATCHDOG_USEC="600000", WATCHDOG_PID=str(os.getpid()))).ready(str)
    assert manager.heard() == ["READY=1", "WATCHDOG=1"]
    for _ in range(3):
        clock.advance(0.2)
        assert manager.heard() == ["WATCHDOG=1"]


def test_a_summary_that_fails_does_not_end_the_signs_of_life(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    monkeypatch.setattr("p2pd.net.notify.log.failure", failures.append)
    clock = Clock()

    def summary() -> str:
        raise RuntimeError

    Notifier(clock, environ(tmp_path, WATCHDOG_USEC="3000000")).ready(summary)
    manager.heard()
    clock.advance(1)
    assert manager.heard() == ["WATCHDOG=1"]
    assert len(failures) == 2


@pytest.mark.parametrize(
    "more",
    [{"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}],
)
def test_no_signs_of_life_where_nobody_wants_them(
    tmp_path: Path, manager: Manager, more: dict[str, str]
) -> None:
    Notifier(Clock(), environ(tmp_path, **more)).ready(str)
    assert manager.heard() == ["READY=1"]


def test_what_did_not_get_through_is_said_again(tmp_path: Path) -> None:
    clock = Clock()
    notifier = Notifier(clock, environ(tmp_path))
    notifier.ready(lambda: "up")
    made = Manager(str(tmp_path / "notify"))
    clock.advance(STATUS_INTERVAL)
    assert made.heard() == ["READY=1", "STATUS=up"]
    made.socket.close()


def test_an_abstract_socket() -> None:
    name = f"p2pd-test-{os.getpid()}-{id(object())}"
    made = Manager("\0" + name)
    Notifier(Clock(), {"NOTIFY_SOCKET": "@" + name}).ready(str)
    assert made.heard() == ["READY=1"]
    made.socket.close()


@pytest.mark.parametrize("address", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_nobody_to_tell(address: dict[str, str]) -> None:
    clock = Clock()
    notifier = Notifier(clock, address)
    notifier.ready(str)
    notifier.stopping()
    assert not clock.getDelayedCalls()
