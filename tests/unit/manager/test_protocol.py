from typing import Any

import pytest

from p2pd.manager.protocol import ANNOUNCE_WITHIN, MAX_REFUSALS
from p2pd.net.lines import LINGER, MAX_STRIKES, MAX_WAITING
from p2pd.net.pace import PAUSE


def verbs(line: Any) -> Any:
    return [verb for verb, _fields in line.heard()]


def test_a_peer_is_welcomed_and_gets_the_list(manager: Any) -> None:
    line = manager.line()
    line.announce(1)
    ((verb, fields),) = line.heard()
    assert verb == "welcome"
    assert fields["lease"] == 30
    assert fields["host"] == "10.0.0.5"
    assert fields["cookie"]
    manager.clock.advance(0)
    ((verb, fields),) = line.heard()
    assert verb == "peers"
    assert [row["name"] for row in fields["rows"]] == ["p1"]
    assert manager.store.saved[0].name == "p1"
    assert manager.tables == 1


def test_nobody_is_answered_before_the_store_is_read(manager: Any) -> None:
    manager.factory.ready = False
    line = manager.line()
    assert line.producerState == "paused"
    manager.factory.begin()
    assert line.producerState == "producing"


def test_changes_are_gathered(manager: Any) -> None:
    first = manager.joined(1)
    first.heard()
    manager.joined(2)
    assert [(verb, fields["serial"]) for verb, fields in first.heard()] == [("changes", 2)]
    manager.line().announce(3)
    for number in range(4, 9):
        manager.line().announce(number)
    manager.clock.advance(0.05)
    ((verb, fields),) = first.heard()
    assert verb == "changes"
    assert len(fields["joined"]) == 6


def test_leaving_takes_off_the_list(manager: Any) -> None:
    first, second, third = (manager.joined(number) for number in (1, 2, 3))
    first.heard()
    second.say("left_peer")
    third.end()
    assert manager.names() == ["p1"]
    manager.clock.advance(0.05)
    ((_verb, fields),) = first.heard()
    assert len(fields["left"]) == 2
    assert second.write_closed


def test_the_whole_list_comes_again_on_request_and_now_and_then(manager: Any) -> None:
    line = manager.joined(1)
    line.heard()
    for _ in range(1000):
        line.say("list")
    manager.clock.advance(0.05)
    assert verbs(line) == ["peers"]
    for _ in range(6):
        manager.clock.advance(10)
        line.say("ping", number=1)
    manager.clock.advance(0.05)
    assert verbs(line).count("peers") == 1


def test_a_name_that_is_taken(manager: Any) -> None:
    manager.joined(1, name="lab")
    second = manager.joined(2, name="lab")
    assert second.heard() == [("error", {"code": "refused", "message": "name lab is taken"})]
    assert second.write_closed
    assert manager.names() == ["lab"]


def test_an_old_connection_gives_way_to_the_one_with_the_cookie(manager: Any) -> None:
    old = manager.joined(1)
    cookie = old.heard()[0][1]["cookie"]
    new = manager.joined(1, cookie=cookie)
    assert old.write_closed
    assert old.heard()[-1][0] == "error"
    assert verbs(new) == ["welcome", "peers"]
    old.end()
    assert manager.names() == ["p1"]
    thief = manager.joined(1)
    assert verbs(thief) == ["error"]
    assert new.protocol.open


@pytest.mark.fault(3)
def test_new_peer_has_an_absolute_deadline(manager: Any) -> None:
    line = manager.line()
    for _ in range(int(ANNOUNCE_WITHIN * 2)):
        assert line.protocol.open
        line.protocol.dataReceived(b"n" if not line.protocol._decoder.buffered else b"e")
        manager.clock.advance(0.5)
    assert line.heard()[0][0] == "error"
    manager.clock.advance(LINGER)
    assert line.disconnected


@pytest.mark.fault(5, 74)
def test_a_lease_lapses(make_manager: Any) -> None:
    manager = make_manager(lease=6)
    silent, alive = manager.joined(1), manager.joined(2)
    for _ in range(4):
        manager.clock.advance(2)
        alive.say("ping", number=7)
    assert manager.names() == ["p2"]
    assert silent.heard()[-1][0] == "error"
    assert ("pong", {"number": 7}) in alive.heard()


@pytest.mark.fault(1, 2, 7, 8, 13, 16)
@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"\n" * 65536,
        b"x" * 70000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"list {}\n",
        b"new_peer {}\n",
        b'ping {"number": -1}\n',
        b'ping {"number": 1_0}\n',
        b'ping {"number": ' + b"9" * 5000 + b"}\n",
        b"ping " + b'{"number":' * 5000 + b"\n",
        b'new_peer {"name": "\xff"}\n',
    ],
)
def test_a_bad_line_costs_the_connection_after_one_error(manager: Any, data: bytes) -> None:
    line = manager.line()
    line.protocol.dataReceived(data)
    assert verbs(line) == ["error"]
    assert line.write_closed
    line.protocol.dataReceived(data)
    assert line.heard() == []
    line.protocol.readConnectionLost()
    assert line.protocol is None
    assert not line.disconnected  # no reset, which could take the error line away


@pytest.mark.parametrize("name", ["", " lab", "a\nb", "a\x1bb", "x" * 256, "\u202elab"])
@pytest.mark.fault(29, 30)
def test_names_that_could_do_harm_are_refused(manager: Any, name: str) -> None:
    line = manager.line()
    line.announce(1, **{"name": name} if name else {}) if name else line.announce(1, **{"id": "no"})
    assert verbs(line) == ["error"]


def test_another_major_version_is_refused(manager: Any) -> None:
    line = manager.joined(1, major=2)
    assert "version 2" in line.heard()[0][1]["message"]


@pytest.mark.fault(16)
def test_unknown_verbs_are_answered_and_counted(manager: Any) -> None:
    line = manager.joined(1)
    line.heard()
    for _ in range(MAX_STRIKES - 1):
        line.say("shuffle")
        assert line.heard() == [("unknown", {"verb": "shuffle"})]
    line.say("shuffle")
    assert verbs(line) == ["error"]
    assert manager.names() == []


@pytest.mark.fault(17)
def test_a_full_manager_says_so(make_manager: Any) -> None:
    manager = make_manager(limit=2)
    lines = [manager.joined(1, "10.0.0.5"), manager.joined(2, "10.0.0.6")]
    refused = [manager.line() for _ in range(MAX_REFUSALS)]
    for line in refused:
        assert line.heard() == [
            ("error", {"code": "refused", "message": "the manager is full (2 connections)"})
        ]
    assert manager.line().protocol is None
    manager.clock.advance(LINGER)
    assert all(line.disconnected for line in refused)
    lines[0].end()
    assert verbs(manager.joined(3)) == ["welcome", "peers"]


@pytest.mark.fault(6)
def test_a_half_closed_connection_gets_its_answers(manager: Any) -> None:
    line = manager.line()
    line.announce(1)
    line.protocol.readConnectionLost()
    assert line.protocol.open
    manager.clock.advance(0)
    assert verbs(line) == ["welcome", "peers"]
    assert line.write_closed
    assert manager.names() == []
    manager.clock.advance(LINGER)


@pytest.mark.fault(10, 11)
def test_who_does_not_read_is_bounded_and_dropped(manager: Any) -> None:
    line, other = manager.joined(1), manager.joined(2)
    line.heard()
    line.protocol.pauseProducing()  # what the transport says when its buffer is full
    joins = 0
    while not line.protocol.stuck:
        line.protocol.dataReceived(b'ping {"number": 1000000000}\n' * 400)
        manager.clock.advance(PAUSE)  # no faster than it would be read
    assert len(line.value()) < 2 * MAX_WAITING
    assert line.producerState == "paused"
    line.heard()
    for joins in range(3, 6):
        manager.joined(joins)
    assert line.heard() == []
    for _ in range(8):
        manager.clock.advance(4)
        other.say("ping", number=1)
    assert line.disconnected
    assert "p1" not in manager.names()


def test_who_reads_again_gets_the_list_instead_of_what_was_missed(manager: Any) -> None:
    line = manager.joined(1)
    line.protocol.pauseProducing()
    line.protocol.send_lines(b"x" * (MAX_WAITING + 1))
    line.clear()
    manager.joined(2)
    line.protocol.resumeProducing()
    manager.clock.advance(0.05)
    ((verb, fields),) = line.heard()
    assert verb == "peers"
    assert len(fields["rows"]) == 2
    assert line.producerState == "producing"


def test_a_slow_reader_is_still_sent_changes(manager: Any) -> None:
    line = manager.joined(1)
    line.heard()
    line.protocol.pauseProducing()
    manager.joined(2)
    assert verbs(line) == ["changes"]
