"""The limit: sendfile into recv_into and pwrite, by two bare Python processes.

``send FILE`` listens, says its port, and sends the file to whoever connects, one after the other, until
its standard input ends. ``receive PORT FILE [hash]`` is the other side, with a thread that writes; with
``hash`` it takes the BLAKE3 of each MiB first. Memory and sockets are set up as by p2pd.
"""

from __future__ import annotations

import mmap
import os
import queue
import select
import socket
import sys
import threading
from collections.abc import Callable

CHUNK = 2**20
BUFFERS = 8


def tune(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def send(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    size = os.fstat(file).st_size
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while server in select.select([server, sys.stdin], [], [])[0]:
            client, _ = server.accept()
            with client:
                tune(client)
                sent = 0
                while sent < size:
                    sent += os.sendfile(client.fileno(), file, sent, size - sent)


def receive(port: int, path: str, digest: Callable[[memoryview], object]) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
    for _ in range(BUFFERS):
        free.put(memoryview(mmap.mmap(-1, CHUNK)))

    def write() -> None:
        written = 0
        while (given := full.get()) is not None:
            buffer, have = given
            done = 0
            while done < have:
                done += os.pwrite(file, buffer[done:have], written + done)
            written += have
            free.put(buffer)

    writer = threading.Thread(target=write)
    writer.start()
    with socket.create_connection(("127.0.0.1", port)) as server:
        tune(server)
        count = 1
        while count:
            buffer, have = free.get(), 0
            while count and have < CHUNK:
                count = server.recv_into(buffer[have:])
                have += count
            digest(buffer[:have])
            full.put((buffer, have))
    full.put(None)
    writer.join()


def main() -> None:
    role, *args = sys.argv[1:]
    if role == "send":
        send(args[0])
    elif args[2:] == ["hash"]:
        from blake3 import blake3

        receive(int(args[0]), args[1], lambda data: blake3(data).digest())
    else:
        receive(int(args[0]), args[1], lambda data: None)


if __name__ == "__main__":
    main()
