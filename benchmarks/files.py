"""Files to be moved: made, compared, and put out of the cache; and the room for them."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import threading
import time
from pathlib import Path

from benchmarks.measure import BenchError

MIB = 2**20
GIB = 2**30
_COLD = 0.01
"""Share of a file's pages that may be in memory while it counts as cold."""
_COLD_WITHIN = 10.0


def make_file(path: Path, size: int) -> None:
    """A file of ``size`` bytes that cannot be compressed and in which no MiB is like another."""
    pool = os.urandom(65 * MIB)
    with path.open("wb", buffering=0) as file:
        for number in range(-(-size // MIB)):
            at = number * 1_000_003 % (64 * MIB)
            block = number.to_bytes(8, "big") + pool[at : at + MIB - 8]
            file.write(memoryview(block)[: size - number * MIB])
        os.fsync(file.fileno())


def same(one: Path, other: Path) -> bool:
    """Byte for byte."""
    with one.open("rb", buffering=0) as first, other.open("rb", buffering=0) as second:
        while True:
            block = first.read(4 * MIB)
            if block != second.read(4 * MIB):
                return False
            if not block:
                return True


def make_cold(path: Path) -> None:
    """Let nothing of a file be in memory; BenchError where that cannot be had."""
    never = threading.Event()
    deadline = time.monotonic() + _COLD_WITHIN
    with path.open("r+b") as file:
        while True:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            share = _resident(file.fileno())
            if share <= _COLD or time.monotonic() > deadline:
                break
            _stir()
            never.wait(0.05)  # a daemon may just be reading ahead
    if share > _COLD:
        raise BenchError(f"{path}: {share:.0%} stays in memory, so no cold cache can be had")


def _stir() -> None:
    """A little traffic on every processor.

    Each keeps some buffers that were received, and with them pages that sendfile sent, until it next
    receives something.
    """
    allowed = os.sched_getaffinity(0)
    try:
        for processor in allowed:
            os.sched_setaffinity(0, {processor})
            with (
                socket.create_server(("127.0.0.1", 0)) as server,
                socket.create_connection(server.getsockname()) as client,
                server.accept()[0] as accepted,
            ):
                client.sendall(b"x")
                accepted.recv(1)
    finally:
        os.sched_setaffinity(0, allowed)


def _resident(fd: int) -> float:
    """The share of a file's pages that are in memory."""
    size = os.fstat(fd).st_size
    pages = -(-size // mmap.PAGESIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    found = (ctypes.c_ubyte * pages)()
    with mmap.mmap(fd, size) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        failed = libc.mincore(ctypes.byref(first), ctypes.c_size_t(size), found)
        del first  # else the map cannot be closed
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return sum(page & 1 for page in bytes(found)) / pages


def filesystem(folder: Path) -> str:
    """The kind of file system that a folder is on."""
    best, kind = "", "unknown"
    real = os.path.realpath(folder)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, what, *_ = line.split()
        if len(where) >= len(best) and (real + "/").startswith(where.rstrip("/") + "/"):
            best, kind = where, what
    return kind


def in_memory(folder: Path) -> bool:
    """True where files in a folder lie in memory."""
    return filesystem(folder) in ("tmpfs", "ramfs")


def need_room(folder: Path, size: int) -> None:
    """BenchError where a folder has no room for ``size`` bytes, or memory has none."""
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize
    if in_memory(folder):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = min(free, int(line.split()[1]) * 1024)
    if free < size:
        raise BenchError(f"{folder}: {size / GIB:.1f} GiB are needed, {free / GIB:.1f} GiB are free")
