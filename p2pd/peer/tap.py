"""``twistd -n p2ppeer``: options, checked here, and the service made from them."""

from __future__ import annotations

import gc
import os
import socket
from pathlib import Path
from typing import cast

from twisted.application import service
from twisted.python import usage

from p2pd.errors import UsageError
from p2pd.net.addresses import canonical_host, is_wildcard, listen_hosts, split_host_port
from p2pd.net.console import for_twistd
from p2pd.net.listening import check_port_option
from p2pd.net.options import DaemonOptions, Reloader
from p2pd.net.signals import install_signals
from p2pd.net.starting import use_monotonic_clock
from p2pd.net.statedir import default_state_dir
from p2pd.peer.commands import RunTime
from p2pd.peer.service import PeerConfig, PeerService
from p2pd.sizes import parse_rate, parse_size
from p2pd.wire.fields import is_peer_name


class Options(DaemonOptions):
    """Command line of the peer; see docs/cli.md."""

    synopsis = "--port PORT [--dir FOLDER] [options]"
    longdesc = "Shares a folder with the other peers, and fetches files from them."
    optParameters = [  # noqa: RUF012
        ["host", None, "localhost", "Address to listen on; localhost is 127.0.0.1 and ::1."],
        ["port", None, None, "Port to listen on (0: any free one), or an endpoint string."],
        ["dir", None, None, "Folder to share; made if it is missing. Default: the peer's name."],
        ["manager", None, "localhost:12000", "HOST:PORT of the manager."],
        ["owner", None, None, "HOST:PORT to fetch from, and from no others but neighbors."],
        ["neighbor", None, None, "HOST:PORT to fetch from, and from no others; may be said several times."],
        ["name", None, None, "This peer's name, unique among the active peers. Default: HOSTNAME-PORT."],
        ["state", None, None, "Folder for identity and caches."],
        ["advertise", None, "", "Address that others reach this peer by, behind address translation."],
        ["max", None, "200", "Connections to take."],
        ["control", None, None, "Path of the control socket."],
        ["config", None, None, "TOML file with options; read again on SIGHUP."],
        ["activity", None, "on", "on or off: a line for every piece asked for and sent."],
        ["piece-size", None, None, "Piece size for what this peer shares: 100K, 1Mi."],
        ["up-limit", None, None, "Bytes per second that go out at most: 500K, 2Mi; off: no limit."],
        ["down-limit", None, None, "Bytes per second that come in at most."],
        ["ban", None, "60", "Seconds for which a peer that sent wrong data is not used for that transfer."],
    ]
    run_time: RunTime
    optFlags = [["no-manager", None, "Do without a manager."]]  # noqa: RUF012

    numbers = frozenset({"port", "max", "piece-size", "ban", "up-limit", "down-limit"})
    switches = frozenset({"activity"})
    at_run_time = frozenset({"max", "activity", "ban", "up-limit", "down-limit"})
    against = {"no-manager": "manager"}  # noqa: RUF012

    def opt_neighbor(self, address: str) -> None:
        """HOST:PORT to fetch from, and from no others but the owner; may be said several times."""
        self["neighbor"] = f"{self['neighbor']} {address}" if self["neighbor"] else address

    def check(self) -> None:
        """Check everything that can be checked before anything is opened."""
        if self["port"] is None:
            raise usage.UsageError("--port is needed")
        for name in ("dir", "state", "control"):
            if self[name] == "":
                raise usage.UsageError(f"--{name}: a value is missing")
        self.checked("port", check_port_option)
        if ":" not in self["port"]:
            self.checked("host", listen_hosts)
        if self["name"] is not None and not is_peer_name(self["name"]):
            raise usage.UsageError("--name: 1 to 255 bytes of printable text")
        if (
            self["dir"] is None
            and self["name"] is not None
            and ("/" in self["name"] or self["name"].startswith("."))
        ):
            raise usage.UsageError("--name: no folder can be named so; say --dir")
        self["manager"] = None if self["no-manager"] else self.checked("manager", split_host_port)
        self["owner"] = None if self["owner"] is None else self.checked("owner", split_host_port)
        self["neighbor"] = () if self["neighbor"] is None else self.checked("neighbor", _addresses)
        if self["advertise"]:
            self["advertise"] = self.checked("advertise", canonical_host)
            if is_wildcard(self["advertise"]):
                raise usage.UsageError("--advertise: names one address")
        if self["activity"] not in ("on", "off"):
            raise usage.UsageError("--activity: on or off")
        if self["piece-size"] is not None:
            self["piece-size"] = self.checked("piece-size", parse_size)
            if self["piece-size"] < 1024:
                raise usage.UsageError("--piece-size: at least 1Ki")
        self.run_time = RunTime(
            self.number("max", 100_000), self["activity"] == "on", self.number("ban", 86_400),
            self._limit("up-limit"), self._limit("down-limit"),
        )  # fmt: skip

    def _limit(self, name: str) -> int | None:
        return None if self[name] is None else self.checked(name, parse_rate)

    def config(self) -> PeerConfig:
        """The options as values, paths made absolute before twistd changes the directory."""
        port = self["port"]
        folder = self["dir"] or self["name"] or f"{socket.gethostname() or 'peer'}-{port.replace('/', '_')}"
        path = Path(folder).absolute()
        state = self["state"]
        return PeerConfig(
            host=self["host"], port=port, folder=path, manager=self["manager"], name=self["name"],
            state=Path(state).absolute() if state else default_state_dir(_state_name(path)),
            advertise=self["advertise"],
            control=Path(self["control"]).absolute() if self["control"] else None,
            piece_size=self["piece-size"], neighbours=self["neighbor"], owner=self["owner"],
            run_time=self.run_time,
        )  # fmt: skip


def _addresses(text: str) -> tuple[tuple[str, int], ...]:
    found = tuple(dict.fromkeys(map(split_host_port, text.replace(",", " ").split())))
    if not found:
        raise UsageError("HOST:PORT is missing")
    return found


def _state_name(folder: Path) -> str:
    # One state per share path; the path itself stays readable in it.
    return "peer" + os.path.realpath(folder).replace("%", "%25").replace("/", "%2F")[-200:]


def makeService(options: Options) -> service.Service:
    """The peer's service, on the global reactor."""
    from twisted.internet import reactor

    # What was imported stays: the collector, which goes through all there is now and then, need not.
    gc.freeze()
    use_monotonic_clock(reactor)
    for_twistd.reactor = reactor
    made = PeerService(reactor, options.config())

    def apply(fresh: DaemonOptions) -> None:
        made.change(cast(Options, fresh).run_time)

    install_signals(reactor, Reloader(reactor, options, made, apply).reload)
    return made
