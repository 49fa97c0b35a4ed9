"""What `doctor` looks at in a running peer."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol

from p2pd.model import PeerInfo
from p2pd.net import health
from p2pd.net.addresses import LOCALHOST, is_loopback, is_own
from p2pd.peer.uplink import Uplink
from p2pd.status import Check
from p2pd.text import escape
from p2pd.threads import InThread

DIAL = 3.0
"""Seconds for the way to its own address."""


@attrs.frozen
class Facts:
    """What there is to look at; ``manager`` None: it does without, ``visitors``: from other machines."""

    reactor: Any
    in_thread: InThread
    share: str
    state: Path
    hosts: Sequence[str]
    port: int
    maximum: int
    name: str
    manager: Uplink | None
    problems: Sequence[str]
    others: Sequence[PeerInfo]
    visitors: int


async def examine(facts: Facts) -> list[Check]:
    """Every check, in the order in which a person would go through them."""
    events, rest = _events(facts.problems)
    on_disk = await facts.in_thread(lambda: _disks(facts.share, os.fspath(facts.state)))
    return [
        _manager(facts.manager), _name(facts), await _reach(facts), *on_disk, events,
        health.descriptors(facts.maximum), *health.others(rest),
    ]  # fmt: skip


def _manager(uplink: Uplink | None) -> Check:
    if uplink is None:
        return Check("manager", "ok", "does without one (--no-manager)")
    if uplink.state == "connected":
        return Check("manager", "ok", f"connected to {uplink.where}")
    why = next(iter(uplink.problems), "not connected yet")
    if "taken" in why:
        return Check("manager", "ok", f"{uplink.where} answers, but refuses")
    host, _, port = uplink.where.rpartition(":")
    if _is_here_only(host):
        option = "" if port == "12000" else f" --port {port}"
        return Check(
            "manager", "problem", why, f"start it: twistd -n p2pmanager{option}, or correct --manager"
        )
    remedy = f"start it there (twistd -n p2pmanager --host 0.0.0.0 --port {port}), open port {port} of {host}"
    return Check("manager", "problem", why, f"{remedy} in its firewall, or correct --manager")


def _name(facts: Facts) -> Check:
    problems = facts.manager.problems if facts.manager is not None else []
    for each in problems:
        if "taken" in each:
            return Check(
                "name", "problem", each, "give this peer another name by --name, or stop the other one"
            )
    return Check("name", "ok", f"{escape(facts.name)}")


def _disks(share: str, state: str) -> list[Check]:
    found = []
    room = Check("room", "ok", f"nothing can be fetched into {escape(share)}, so that it needs no room")
    if os.access(share, os.W_OK | os.X_OK):
        room = health.room("room", share)
        found.append(Check("share", "ok", f"{escape(share)} can be written"))
    elif os.access(share, os.R_OK | os.X_OK):
        text = f"{escape(share)} cannot be written: its files are served, but nothing can be fetched into it"
        found.append(Check("share", "warning", text, "chown or chmod it for this user, or mount it writable"))
    else:
        text = f"{escape(share)} cannot be read"
        found.append(Check("share", "problem", text, "is it mounted, and open to this user?"))
    return [*found, room, health.room("state", state)]


def _events(problems: Sequence[str]) -> tuple[Check, list[str]]:
    """Also what is left of the problems."""
    rest = [each for each in problems if "every 30 s only" not in each]
    for each in problems:
        if each not in rest:
            remedy = "nothing to mend: changes are found, only later"
            if "watch" in each or "events" in each:
                remedy = "raise fs.inotify.max_user_watches and max_user_instances by sysctl"
            return Check("events", "warning", each, remedy), rest
    return Check("events", "ok", "changes in the share are noticed at once"), rest


async def _reach(facts: Facts) -> Check:
    """Whether others can connect: tried on the address that they are told, and by who has."""
    if all(map(is_loopback, facts.hosts)):
        elsewhere = facts.manager is not None and any(
            "cannot reach" in each for each in facts.manager.problems
        )
        text = "listens on loopback only: peers on other machines cannot reach it"
        if elsewhere:
            return Check(
                "reach", "problem", text, "start it with --host 0.0.0.0 or an address of this machine"
            )
        return Check("reach", "ok", "listens for this machine only")
    host = (facts.manager.known_as if facts.manager is not None else "") or facts.hosts[0]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    try:
        factory = Factory.forProtocol(Protocol)
        factory.noisy = False
        made: Any = await HostnameEndpoint(facts.reactor, host, facts.port, timeout=DIAL).connect(factory)
        made.transport.abortConnection()
    except Exception as error:  # whatever stands in the way, it is the finding
        text = f"not even this machine can reach {host} port {facts.port}: {type(error).__name__}"
        remedy = "correct --advertise or --host, or forward that port to this machine"
        return Check("reach", "problem", text, remedy)
    away = [info for info in facts.others if not is_own(info.host)]
    if facts.visitors:
        return Check("reach", "ok", f"peers on other machines have connected to port {facts.port}")
    if not away:
        return Check("reach", "ok", f"{host} port {facts.port} answers; no peer on another machine is known")
    text = f"{host} port {facts.port} answers here, but no peer on another machine has connected yet"
    remedy = f"if they cannot: open TCP port {facts.port} in this machine's firewall;"
    remedy += f" try nc -z {_from_elsewhere(facts, host)} {facts.port} there"
    return Check("reach", "warning", text, remedy)


def _from_elsewhere(facts: Facts, host: str) -> str:
    """What stands for this machine on another one, where a loopback address would be that one itself."""
    if not is_loopback(host):
        return host
    manager = facts.manager.where.rpartition(":")[0].strip("[]") if facts.manager is not None else LOCALHOST
    # a peer on the manager's machine is known elsewhere by the address that the manager has there
    return manager if is_own(manager) and not is_loopback(manager) else socket.gethostname()


def _is_here_only(host: str) -> bool:
    """Whether ``host``, as it stands before a port, is reached from this machine only."""
    return host == LOCALHOST or is_loopback(host.strip("[]"))
