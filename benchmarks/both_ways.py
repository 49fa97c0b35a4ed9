"""Bare sockets that fill a link both ways: ``listen HOST SECONDS`` and ``dial HOST SECONDS`` on two machines.

Says the bytes per second received in the last three quarters of the time. Standard library only.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time

PORT = 6990
CHUNK = 64 * 1024


def main() -> None:
    role, host, text = sys.argv[1:]
    seconds = float(text)
    if role == "listen":
        with socket.create_server((host, PORT)) as server:
            link, _ = server.accept()
    else:
        deadline = time.monotonic() + 10
        while True:
            try:
                link = socket.create_connection((host, PORT))
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                threading.Event().wait(0.05)
    begin = time.monotonic()
    until = begin + seconds
    got = [0]

    def receive() -> None:
        buffer = bytearray(CHUNK)
        while time.monotonic() < until:
            try:
                count = link.recv_into(buffer)
            except OSError:
                return
            if not count:
                return
            if time.monotonic() > begin + seconds / 4:
                got[0] += count

    receiving = threading.Thread(target=receive, daemon=True)
    receiving.start()
    data = bytes(CHUNK)
    with contextlib.suppress(OSError):  # the other one was done a moment before
        while time.monotonic() < until:
            link.sendall(data)
    receiving.join(5)
    print(got[0] / (seconds * 3 / 4), flush=True)


main()
