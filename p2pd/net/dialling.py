"""Dialling over the fast transport of :mod:`p2pd.net.fast`."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IAddress, IConnector
from twisted.internet.protocol import ClientFactory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

from p2pd.net.fast import FastConnector

CONNECT_TIMEOUT = 5


class _OnceFactory(ClientFactory):
    """Builds one protocol; the Deferred fires with it, or with why there is none."""

    noisy = False

    def __init__(self, protocol: TwistedProtocol) -> None:
        self._made = protocol
        self.connected: Deferred[TwistedProtocol] = Deferred()

    def buildProtocol(self, addr: IAddress | None) -> TwistedProtocol:
        return self._made

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self.connected.called:
            self.connected.errback(reason)

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        # Usually the protocol's own business, but it may not have come to say that it is connected.
        if not self.connected.called:
            self.connected.errback(ConnectError(string=reason.getErrorMessage()))


def dial(reactor: Any, host: str, port: int, protocol: TwistedProtocol) -> Deferred[TwistedProtocol]:
    """Connect ``protocol`` over a fast transport to a numeric address.

    The Deferred fails with a ConnectError within :data:`CONNECT_TIMEOUT` s;
    it fires when the protocol's own ``connectionMade`` calls ``factory.connected``
    (see :func:`made`). Cancelling it stops dialling.
    """
    factory = _OnceFactory(protocol)
    protocol.factory = factory
    connector = FastConnector(host, port, factory, CONNECT_TIMEOUT, None, reactor)
    factory.connected = Deferred(lambda _: connector.stopConnecting())
    connector.connect()
    return factory.connected


def made(protocol: TwistedProtocol) -> None:
    """To be called in ``connectionMade`` of a dialled protocol: fires the Deferred of :func:`dial`."""
    factory = protocol.factory
    if isinstance(factory, _OnceFactory) and not factory.connected.called:
        factory.connected.callback(protocol)
