import socket
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import tcp
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from p2pd.errors import P2PError, UsageError
from p2pd.net.addresses import listen_hosts
from p2pd.net.door import Door
from p2pd.net.listening import REFUSALS, REST, Listener, Listening, Port, check_port_option


class MyPort(tcp.Port):
    pass


def listener(host: str, port: Any, port_class: Any = MyPort) -> Any:
    from twisted.internet import reactor

    return Listener(reactor, host, port, Factory.forProtocol(Protocol), port_class)


@pytest.mark.parametrize("option", ["0", "tcp:0:interface=127.0.0.1"])
@ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_free_port_and_the_given_class(option: str) -> None:
    made = listener("localhost", option)
    listening = await made.start()
    assert listening.port > 0
    assert listening.hosts[0] == "127.0.0.1"
    assert {type(port) for port in made._ports} == {MyPort}
    for host in listening.hosts:
        socket.create_connection((host, listening.port)).close()
    await made.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", listening.port))


@ensureDeferred  # type: ignore[untyped-decorator]
async def test_localhost_is_one_port_on_all_of_its_addresses() -> None:
    made = listener("localhost", "0")
    assert list((await made.start()).hosts) == listen_hosts("localhost")
    await made.stop()


@pytest.mark.parametrize("form", ["{}", "tcp:{}:interface=127.0.0.1"])
@ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_taken_port_is_one_sentence(form: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(P2PError) as caught:
            await listener("localhost", form.format(port)).start()
    assert str(caught.value) == f"cannot listen on 127.0.0.1 port {port}: Address already in use"


@ensureDeferred  # type: ignore[untyped-decorator]
async def test_another_machines_address_is_one_sentence() -> None:
    with pytest.raises(P2PError, match=r"cannot listen on 192\.0\.2\.1 port 0: Cannot assign"):
        await listener("192.0.2.1", "0").start()


@pytest.mark.parametrize(
    "option", ["", "x", "-1", "65536", "7001 ", "unix:/tmp/x", "ssl:1", "stdio:", "fd:3"]
)
def test_other_ports_are_refused(option: str) -> None:
    with pytest.raises(UsageError):
        check_port_option(option)


@pytest.mark.parametrize(
    "option", ["tcp:x", "tcp:1:2:3:4", "tcp:0:color=red", "systemd:domain=INET:index=99"]
)
@ensureDeferred  # type: ignore[untyped-decorator]
async def test_bad_endpoints_are_one_sentence(option: str) -> None:
    with pytest.raises(UsageError, match="endpoint"):
        await listener("localhost", option).start()


def test_reach() -> None:
    assert "this machine only" in Listening(1, ("127.0.0.1", "::1")).reach
    assert "every machine" in Listening(1, ("0.0.0.0",)).reach


@pytest.mark.fault(17)
def test_after_many_refusals_those_who_are_inside_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, door, factory = Clock(), Door(1), Factory()
    factory.door = door  # type: ignore[attr-defined]
    port = Port(0, factory, reactor=clock)
    port.numberAccepts = 1
    reading: list[bool] = []
    monkeypatch.setattr(port, "stopReading", lambda: reading.append(False))
    monkeypatch.setattr(port, "startReading", lambda: reading.append(True))
    monkeypatch.setattr(tcp.Port, "doRead", lambda _: door.refusal("10.0.0.1"))
    port.connected = True
    assert door.enter("10.0.0.1")
    for _ in range(REFUSALS - 1):
        port.doRead()
    assert reading == []
    port.doRead()
    assert reading == [False]
    clock.advance(REST)
    assert reading == [False, True]
    for _ in range(REFUSALS):
        port.doRead()
    port.connected = False  # it was closed meanwhile
    clock.advance(REST)
    assert reading == [False, True, False]
