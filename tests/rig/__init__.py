"""The test rig: real daemons as processes, raw and false peers on real sockets, and the oracle.

Nothing here sleeps: a daemon's console, a socket's answer or a file is awaited with a deadline.
"""

from tests.rig.false_peer import FalsePeer, Flaws
from tests.rig.host import Daemon, Host, Result
from tests.rig.oracle import Oracle
from tests.rig.proxy import Proxy, Toxics
from tests.rig.raw import Closed, ManagerLink, Raw

__all__ = [
    "Closed",
    "Daemon",
    "FalsePeer",
    "Flaws",
    "Host",
    "ManagerLink",
    "Oracle",
    "Proxy",
    "Raw",
    "Result",
    "Toxics",
]
