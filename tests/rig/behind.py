"""A real peer that the others reach through a proxy only."""

from __future__ import annotations

from tests.rig.host import Daemon, Host
from tests.rig.proxy import Proxy, Toxics


def behind_proxy(
    host: Host, manager: Daemon, name: str, *args: str, files: dict[str, bytes], rate: int | None = None
) -> tuple[Daemon, Proxy]:
    """A holder that is listed with the port of a proxy, which passes on ``rate`` bytes per second."""
    holder = host.peer(name, *args, files=files)
    proxy = Proxy(holder.port, Toxics(rate=rate)).listed(manager.port, name)
    host.on_close(proxy.close)
    return holder, proxy
