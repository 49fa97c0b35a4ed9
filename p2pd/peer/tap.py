"""``twistd -n p2ppeer``: options, checked here, and the service made from them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from twisted.application import service
from twisted.python import usage

from p2pd.errors import P2PError
from p2pd.net.addresses import canonical_host, is_wildcard, listen_hosts, split_host_port
from p2pd.net.listening import check_port_option
from p2pd.net.signals import install_signals
from p2pd.net.starting import use_monotonic_clock
from p2pd.net.statedir import default_state_dir
from p2pd.peer.service import PeerConfig, PeerService
from p2pd.sizes import parse_size
from p2pd.wire.messages import is_peer_name


class Options(usage.Options):
    """Command line of the peer; see docs/cli.md."""

    synopsis = "Usage: twistd [twistd options] p2ppeer --port PORT --dir FOLDER [options]"
    longdesc = "Shares a folder with the other peers, and fetches files from them."
    optParameters = [  # noqa: RUF012
        ["host", None, "localhost", "Address to listen on; localhost is 127.0.0.1 and ::1."],
        ["port", None, None, "Port to listen on (0: any free one), or an endpoint string."],
        ["dir", None, None, "Folder to share; made if it is missing. Default: the peer's name."],
        ["manager", None, "localhost:12000", "HOST:PORT of the manager."],
        ["name", None, None, "This peer's name, unique among the active peers. Default: HOSTNAME-PORT."],
        ["state", None, None, "Folder for identity and caches."],
        ["advertise", None, "", "Address that others reach this peer by, behind address translation."],
        ["max", None, "200", "Connections to take."],
        ["control", None, None, "Path of the control socket."],
        ["activity", None, "on", "on or off: a line for every piece asked for and sent."],
        ["piece-size", None, None, "Piece size for what this peer shares: 100K, 1Mi."],
        ["ban", None, "60", "Seconds for which a peer that sent wrong data is not used for that transfer."],
    ]
    optFlags = [["no-manager", None, "Do without a manager."]]  # noqa: RUF012

    def parseArgs(self, *args: str) -> None:
        """There are none; Twisted would not say which one is too many."""
        if args:
            raise usage.UsageError(f"{args[0]!r}: only options are expected")

    def postOptions(self) -> None:
        """Check everything that can be checked before anything is opened."""
        if self["port"] is None:
            raise usage.UsageError("--port is needed")
        for name in ("dir", "state", "control"):
            if self[name] == "":
                raise usage.UsageError(f"--{name}: a value is missing")
        _checked("--port", check_port_option, self["port"])
        if ":" not in self["port"]:
            _checked("--host", listen_hosts, self["host"])
        if self["name"] is not None and not is_peer_name(self["name"]):
            raise usage.UsageError("--name: 1 to 255 bytes of printable text")
        if (
            self["dir"] is None
            and self["name"] is not None
            and ("/" in self["name"] or self["name"].startswith("."))
        ):
            raise usage.UsageError("--name: no folder can be named so; say --dir")
        self["manager"] = (
            None if self["no-manager"] else _checked("--manager", split_host_port, self["manager"])
        )
        if self["advertise"]:
            self["advertise"] = _checked("--advertise", canonical_host, self["advertise"])
            if is_wildcard(self["advertise"]):
                raise usage.UsageError("--advertise: names one address")
        text = self["max"]
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= 100_000):
            raise usage.UsageError("--max: a number from 1 to 100000")
        text = self["ban"]
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= 86_400):
            raise usage.UsageError("--ban: a number of seconds from 1 to 86400")
        if self["activity"] not in ("on", "off"):
            raise usage.UsageError("--activity: on or off")
        if self["piece-size"] is not None:
            self["piece-size"] = _checked("--piece-size", parse_size, self["piece-size"])
            if self["piece-size"] < 1024:
                raise usage.UsageError("--piece-size: at least 1Ki")
        # Several daemons run in one folder: twistd's pid file would forbid the second one.
        if self.parent is not None and self.parent.get("pidfile") == "twistd.pid":
            self.parent["pidfile"] = None

    def config(self) -> PeerConfig:
        """The options as values, paths made absolute before twistd changes the directory."""
        port = self["port"]
        folder = self["dir"] or self["name"] or f"{socket.gethostname() or 'peer'}-{port.replace('/', '_')}"
        path = Path(folder).absolute()
        state = self["state"]
        return PeerConfig(
            host=self["host"], port=port, folder=path, manager=self["manager"], name=self["name"],
            state=Path(state).absolute() if state else default_state_dir(_state_name(path)),
            advertise=self["advertise"], maximum=int(self["max"]),
            control=Path(self["control"]).absolute() if self["control"] else None,
            activity=self["activity"] == "on", piece_size=self["piece-size"], ban=float(self["ban"]),
        )  # fmt: skip


def _state_name(folder: Path) -> str:
    # One state per share path; the path itself stays readable in it.
    return "peer" + os.path.realpath(folder).replace("%", "%25").replace("/", "%2F")[-200:]


def _checked(option: str, check: Any, value: str) -> Any:
    try:
        return check(value)
    except P2PError as error:
        raise usage.UsageError(f"{option}: {error}") from None


def makeService(options: Options) -> service.Service:
    """The peer's service, on the global reactor."""
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    install_signals(reactor)
    return PeerService(reactor, options.config())
