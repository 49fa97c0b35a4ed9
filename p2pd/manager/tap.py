"""`twistd p2pmanager`: its options, and the service made of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService
from twisted.python import usage

from p2pd.manager.service import ManagerConfig, ManagerService
from p2pd.net.addresses import listen_hosts
from p2pd.net.console import for_twistd
from p2pd.net.listening import check_port_option
from p2pd.net.options import DaemonOptions, Reloader
from p2pd.net.signals import install_signals
from p2pd.net.starting import use_monotonic_clock


class Options(DaemonOptions):
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
        ["config", None, None, "TOML file with options; read again on SIGHUP."],
    ]
    numbers = frozenset({"port", "max", "lease"})
    at_run_time = frozenset({"max", "lease"})
    config: ManagerConfig

    def check(self) -> None:
        """Check everything; usage.UsageError names the option."""
        self.checked("port", check_port_option)
        for name in ("host", "state", "control"):
            if self[name] == "":
                raise usage.UsageError(f"--{name}: a value is missing")
        if ":" not in self["port"]:  # an endpoint string names its interface itself
            self.checked("host", listen_hosts)
        self.config = ManagerConfig(
            host=self["host"],
            port=self["port"],
            limit=self.number("max", 1_000_000),
            lease=self.number("lease", 86_400),
            # absolute before twistd changes the directory
            state=Path(self["state"]).absolute() if self["state"] else None,
            control=os.path.abspath(self["control"]) if self["control"] else None,
        )


def makeService(options: Options) -> IService:
    """What twistd calls; nothing is opened before the service starts."""
    from twisted.internet import reactor

    def stop() -> None:
        if cast(Any, reactor).running:
            cast(Any, reactor).stop()

    use_monotonic_clock(reactor)
    for_twistd.reactor = reactor
    made = ManagerService(reactor, options.config, stop)

    def apply(fresh: DaemonOptions) -> None:
        config = cast(Options, fresh).config
        made.change(config.limit, config.lease)

    install_signals(reactor, Reloader(reactor, options, made, apply).reload)
    return cast(IService, made)
