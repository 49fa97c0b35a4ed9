"""Asks daemons for their `status` all the time, and measures how long each answer takes.

Arguments: paths of control sockets. Says ``ready`` when each has answered once; ends with its standard
input, and then says a JSON list: an object for each daemon, and the seconds that it came late itself.
A process of its own, and in front of others where it may be, so that its own waiting for the
processor is not taken for the daemon's.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import sys
import time

PAUSE = 0.005
"""Seconds from an answer to the next question."""
PATIENCE = 30.0


class Asked:
    """One daemon. ``due``: when to ask next; None while it owes an answer."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self.seconds: list[float] = []
        self.due: float | None = time.perf_counter()
        self._asked = 0.0
        self._said = b""

    def ask(self) -> None:
        self.due = None
        self._asked = time.perf_counter()
        self.socket.sendall(b"status\n")

    def hear(self) -> None:
        said = self.socket.recv(65536)
        now = time.perf_counter()
        if not said:
            sys.exit(1)
        self._said += said
        if self._said.endswith(b"\n"):
            if json.loads(self._said)["event"] != "done":
                sys.exit(1)
            self._said = b""
            self.seconds.append(now - self._asked)
            self.due = now + PAUSE

    def found(self) -> dict[str, float]:
        ordered = sorted(self.seconds)
        count = len(ordered)
        return {
            "count": count,
            "median": ordered[count // 2],
            "p99": ordered[min(count * 99 // 100, count - 1)],
            "max": ordered[-1],
        }


def main() -> None:
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # less than what it asks, whatever that has
    daemons = [Asked(path) for path in sys.argv[1:]]
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    for daemon in daemons:
        selector.register(daemon.socket, selectors.EVENT_READ, daemon)
        daemon.ask()
        while daemon.due is None:
            daemon.hear()
        daemon.seconds.clear()
    print("ready", flush=True)
    late, ended = 0.0, False
    while not ended or any(daemon.due is None for daemon in daemons):
        dues = [daemon.due for daemon in daemons if daemon.due is not None]
        wait = max(min(dues) - time.perf_counter(), 0.0) if dues and not ended else PATIENCE
        ready = selector.select(wait)
        if not ready and wait == PATIENCE:
            sys.exit(1)
        now = time.perf_counter()
        for key, _ in ready:
            if key.data is None:
                ended = True
                selector.unregister(sys.stdin)
            else:
                key.data.hear()
        for daemon in daemons:
            if daemon.due is not None and daemon.due <= now and not ended:
                late = max(late, now - daemon.due)
                daemon.ask()
    if not all(daemon.seconds for daemon in daemons):
        sys.exit(1)
    print(json.dumps([*(daemon.found() for daemon in daemons), late]), flush=True)


if __name__ == "__main__":
    main()
