"""The two daemons, for twistd."""

from twisted.application.service import ServiceMaker

manager = ServiceMaker("p2pd manager", "p2pd.manager.tap", "Tell peers of each other.", "p2pmanager")
peer = ServiceMaker("p2pd peer", "p2pd.peer.tap", "Share a folder and fetch files.", "p2ppeer")
