"""Listening: ``--host`` and ``--port`` become listening sockets, with the daemon's own port class."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any, cast

import attrs
from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorTime

from p2pd.errors import P2PError, UsageError
from p2pd.net.addresses import canonical_host, is_loopback, is_wildcard, listen_hosts, parse_port
from p2pd.net.door import Door

BACKLOG = 1024
"""Waiting connections; the kernel takes the smaller one of this and net.core.somaxconn."""
ACCEPTS = 16
"""Connections accepted in one turn of the reactor."""
REFUSALS = 32
REST = 0.1
"""After so many refusals nobody is let in for so many seconds: who is inside must not suffer."""
_PREFIXES = ("tcp", "tcp6", "systemd")
_TRIES = 16


class Port(tcp.Port):
    """A listening port that accepts few connections at a time: what those say is read before more come.

    Where its factory has a ``door`` (:class:`~p2pd.net.door.Door`), newcomers wait in the kernel's
    queue while very many are turned away, which takes about as long as taking them in.
    """

    _refused = 0

    def doRead(self) -> None:
        self.numberAccepts = min(self.numberAccepts, ACCEPTS)
        door: Door | None = getattr(self.factory, "door", None)
        before = door.turned_away if door is not None else 0
        super().doRead()  # type: ignore[no-untyped-call]
        if door is None:
            return
        self._refused += door.turned_away - before
        if self._refused >= REFUSALS:
            self._refused = 0
            self.stopReading()  # type: ignore[no-untyped-call]
            cast(IReactorTime, self.reactor).callLater(REST, self._read_on)

    def _read_on(self) -> None:
        if self.connected:
            self.startReading()  # type: ignore[no-untyped-call]


@attrs.frozen
class Listening:
    """Where a daemon really listens: canonical ``hosts`` (wildcards too), all on ``port``."""

    port: int
    hosts: tuple[str, ...]

    @property
    def reach(self) -> str:
        """One line for the console: the addresses, and who can reach them."""
        where = " and ".join(self.hosts)
        if all(is_loopback(host) for host in self.hosts):
            who = "this machine only"
        elif any(is_wildcard(host) for host in self.hosts):
            who = "every machine that has a way to this one"
        else:
            who = "every machine that has a way to that address"
        return f"listening on {where} port {self.port}, for {who}"


class _PortReactor:
    """The reactor as an endpoint sees it: the same, but listening makes ``port_class``."""

    def __init__(self, reactor: Any, port_class: type[tcp.Port]) -> None:
        self._reactor = reactor
        self._port_class = port_class

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = BACKLOG, interface: str = "") -> tcp.Port:
        made = self._port_class(port, factory, max(backlog, BACKLOG), interface, self._reactor)
        made.startListening()
        return made

    def adoptStreamPort(self, descriptor: int, _family: Any, factory: Any) -> tcp.Port:
        # The family that the socket has: `ListenStream=12000` is IPv6 or, on a machine without, IPv4.
        family = _inherited_family(descriptor)
        made: tcp.Port = self._port_class._fromListeningDescriptor(self._reactor, descriptor, family, factory)
        made.startListening()
        return made


def _inherited_family(descriptor: int) -> socket.AddressFamily:
    """The family of an inherited listening TCP socket; UsageError for another."""
    with socket.socket(fileno=os.dup(descriptor)) as inherited:
        listens = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if inherited.family not in (socket.AF_INET, socket.AF_INET6) or not listens:
            raise UsageError("what was inherited is not a listening TCP socket")
        return socket.AddressFamily(inherited.family)


def check_port_option(text: str) -> None:
    """UsageError with a sentence unless ``text`` is a port number or an endpoint string we take."""
    prefix, colon, _rest = text.partition(":")
    if not colon:
        parse_port(text)
    elif prefix not in _PREFIXES:
        known = ", ".join(f"{each}:" for each in _PREFIXES)
        raise UsageError(f"{text!r}: of Twisted's endpoints only {known} can be listened on")


class Listener:
    """Listens by ``--host`` and ``--port`` until stopped; made once, started once.

    ``port_option`` is a number (0: any free one, the same on all addresses of
    ``localhost``) or an endpoint string, which names its interface itself, so
    that ``host_option`` does not count.
    """

    def __init__(
        self,
        reactor: Any,
        host_option: str,
        port_option: str,
        factory: IProtocolFactory,
        port_class: type[tcp.Port] = Port,
    ) -> None:
        check_port_option(port_option)
        self._reactor = _PortReactor(reactor, port_class)
        self._host = host_option
        self._port = port_option
        self._factory = factory
        self._ports: Sequence[IListeningPort] = ()

    async def start(self) -> Listening:
        """Listen. UsageError for a wrong option, P2PError "cannot listen on ...: why" where it fails.

        Is done without waiting for the reactor, so that a daemon can fail before that runs.
        """
        if ":" in self._port:
            self._ports = [await self._listen_endpoint()]
        else:
            self._ports = self._listen_all(listen_hosts(self._host), parse_port(self._port))
        hosts = [cast("IPv4Address | IPv6Address", port.getHost()) for port in self._ports]
        return Listening(hosts[0].port, tuple(dict.fromkeys(canonical_host(each.host) for each in hosts)))

    async def stop(self) -> None:
        """Stop taking connections; those there are stay."""
        ports, self._ports = self._ports, ()
        for port in ports:
            await maybeDeferred(port.stopListening)

    def _listen_all(self, hosts: Sequence[str], number: int) -> list[IListeningPort]:
        for last_try in [False] * (_TRIES - 1) + [True]:
            made: list[IListeningPort] = []
            try:
                for host in hosts:
                    wanted = cast(IPv4Address, made[0].getHost()).port if made else number
                    made.append(self._reactor.listenTCP(wanted, self._factory, BACKLOG, host))
            except CannotListenError as error:
                for port in made:
                    # The socket is closed by the reactor later; nobody waits for a port that was not kept.
                    maybeDeferred(port.stopListening).addErrback(lambda _failure: None)
                # A free port of one address may be taken on the other one: then take another.
                if not made or number or last_try:
                    raise _cannot_listen(host, wanted, error) from None
            else:
                return made
        raise AssertionError("the last try returns or raises")

    async def _listen_endpoint(self) -> IListeningPort:
        try:
            endpoint = serverFromString(self._reactor, self._port)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            why: object = error
            if isinstance(error, LookupError):  # of systemd: alone
                why = "no such socket was inherited; does the .socket unit run?"
            raise UsageError(f"{self._port!r} is not an endpoint that can be listened on: {why}") from None
        try:
            port: IListeningPort = await endpoint.listen(self._factory)
        except CannotListenError as error:
            raise _cannot_listen(error.interface or "0.0.0.0", error.port, error) from None
        except OSError as error:  # an inherited descriptor that is none
            raise P2PError(f"cannot listen on {self._port}: {os.strerror(error.errno or 0)}") from None
        return port


def _cannot_listen(host: str, port: int, error: CannotListenError) -> P2PError:
    cause = error.socketError
    why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return P2PError(f"cannot listen on {host} port {port}: {why}")
