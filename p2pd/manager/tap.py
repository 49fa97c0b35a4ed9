"""`twistd p2pmanager`: its options, and the service made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService
from twisted.python import usage

from p2pd.errors import UsageError
from p2pd.manager.service import ManagerConfig, ManagerService
from p2pd.net.addresses import listen_hosts
from p2pd.net.listening import check_port_option
from p2pd.net.signals import install_signals
from p2pd.net.starting import use_monotonic_clock

TWISTD_PIDFILE = "twistd.pid"
"""twistd's default; two daemons in one directory would be in each other's way by it."""


class Options(usage.Options):
    """The command line; ``config`` holds the checked values."""

    synopsis = "[options]"
    longdesc = "Keeps the list of peers and tells everybody of every change."
    optParameters = [  # noqa: RUF012 (usage.Options wants a list)
        ["host", None, "localhost", "Where to listen: an address, or localhost for 127.0.0.1 and ::1."],
        ["port", None, "12000", "A port number (0: any free one) or a Twisted endpoint string."],
        ["max", None, "1000", "Connections to take."],
        ["lease", None, "30", "Seconds after which a silent peer is taken off the list."],
        ["state", None, None, "Folder for what is kept over restarts."],
        ["control", None, None, "Path of the control socket."],
    ]
    config: ManagerConfig

    def parseArgs(self, *args: str) -> None:
        """There are none; Twisted would not say which one is too many."""
        if args:
            raise usage.UsageError(f"{args[0]!r}: only options are expected")

    def postOptions(self) -> None:
        """Check everything; usage.UsageError names the option."""
        parent = cast("dict[str, Any] | None", self.parent)
        if parent is not None and parent["pidfile"] == TWISTD_PIDFILE:
            parent["pidfile"] = ""
        try:
            check_port_option(self["port"])
        except UsageError as error:
            raise usage.UsageError(f"--port: {error}") from None
        for name in ("host", "state", "control"):
            if self[name] == "":
                raise usage.UsageError(f"--{name}: a value is missing")
        if ":" not in self["port"]:  # an endpoint string names its interface itself
            try:
                listen_hosts(self["host"])
            except UsageError as error:
                raise usage.UsageError(f"--host: {error}") from None
        self.config = ManagerConfig(
            host=self["host"],
            port=self["port"],
            limit=self._number("max", 1_000_000),
            lease=self._number("lease", 86_400),
            state=Path(self["state"]) if self["state"] else None,
            control=self["control"],
        )

    def _number(self, name: str, high: int) -> int:
        text = self[name]
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= high):
            raise usage.UsageError(f"--{name}: {text!r} is not a whole number from 1 to {high}")
        return int(text)


def makeService(options: Options) -> IService:
    """What twistd calls; nothing is opened before the service starts."""
    from twisted.internet import reactor

    def stop() -> None:
        if cast(Any, reactor).running:
            cast(Any, reactor).stop()

    use_monotonic_clock(reactor)
    install_signals(reactor)
    return cast(IService, ManagerService(reactor, options.config, stop))
