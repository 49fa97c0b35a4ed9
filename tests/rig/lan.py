"""Several machines on one: network namespaces on a bridge of their own, each with an address."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Sequence

_numbers = itertools.count()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Lan:
    """``count`` machines 10.77.0.1, .2, ...; ``rate`` (of tc: ``100mbit``) shapes each link, both ways.

    A list has one for each machine.
    """

    def __init__(self, count: int, rate: str | Sequence[str] | None = None) -> None:
        tag = f"{os.getpid() % 100000}x{next(_numbers)}"
        self._switch = f"p2s{tag}"
        self.names = [f"p2h{tag}n{i}" for i in range(count)]
        self.addresses = [f"10.77.0.{i + 1}" for i in range(count)]
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "br0", "up")
        # The switch is not what is tested: its frames need not pass this machine's packet filter.
        with contextlib.suppress(subprocess.CalledProcessError):
            _run(
                "ip", "netns", "exec", self._switch,
                "sysctl", "-q", "-w", "net.bridge.bridge-nf-call-iptables=0",
            )  # fmt: skip
        for i, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            _run("ip", "netns", "add", name)
            _run(
                "ip", "link", "add", "eth0", "netns", name, "type", "veth",
                "peer", "name", f"port{i}", "netns", self._switch,
            )  # fmt: skip
            _run("ip", "-n", self._switch, "link", "set", f"port{i}", "master", "br0", "up")
            _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
            if rate is not None:
                shaped = rate if isinstance(rate, str) else rate[i]
                for space, device in ((name, "eth0"), (self._switch, f"port{i}")):
                    _run(
                        "tc", "-n", space, "qdisc", "add", "dev", device, "root", "tbf",
                        "rate", shaped, "burst", "64kb", "latency", "100ms",
                    )  # fmt: skip

    def on(self, index: int) -> list[str]:
        """What to put before a command to run it on that machine."""
        return ["ip", "netns", "exec", self.names[index]]

    def link(self, index: int, up: bool) -> None:
        """Pull or plug a machine's cable."""
        _run("ip", "-n", self._switch, "link", "set", f"port{index}", "up" if up else "down")

    def close(self) -> None:
        for name in [*self.names, self._switch]:
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "del", name)
