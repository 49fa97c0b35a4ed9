"""The control socket: one command table, a server for daemons, a client without Twisted."""
