"""libtorrent as a pair of commands: v1, TCP only, nothing encrypted, no trackers, no DHT.

``make FILE TORRENT``; ``seed TORRENT FOLDER`` says its port when it seeds, and ends with its standard
input; ``leech TORRENT FOLDER PORT`` ends when the file is complete and closed.

``member TORRENT FOLDER HOST SEEDS [HOST ...]`` is one of a swarm: it listens on port 6881 of HOST, says
``up``, waits for a line, connects to the others, says ``done`` when it has all, and goes on serving
until its standard input ends.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt

PATIENCE = 600.0
FAST: Any = {
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "allow_multiple_connections_per_ip": True,
    "smooth_connects": False,
    "tick_interval": 100,  # the least: it connects at the next tick only
    "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.status_notification,
    # From high_performance_seed(), without what saves memory.
    "max_out_request_queue": 1500,
    "max_allowed_in_request_queue": 4000,
    "send_buffer_low_watermark": 2**20,
    "send_buffer_watermark": 3 * 2**20,
    "send_buffer_watermark_factor": 150,
    "send_not_sent_low_watermark": 2**19,
    "max_peer_recv_buffer_size": 5 * 2**20,
    "unchoke_slots_limit": -1,
}


AMONG_MANY = ("unchoke_slots_limit", "send_buffer_watermark", "send_buffer_watermark_factor")
"""With many, libtorrent's own choking and short queues are better than what is best for two."""


def session(listen: str = "127.0.0.1:0", *, among_many: bool = False) -> lt.session:
    settings: Any = {**FAST, "listen_interfaces": listen}
    if among_many:
        for name in AMONG_MANY:
            del settings[name]
    return lt.session(settings)


def member(torrent: str, folder: str, host: str, seeds: bool, others: list[str]) -> None:
    running = session(f"{host}:6881", among_many=True)
    handle = add(running, torrent, folder, seeds=seeds)
    if seeds:
        wait(running, handle)
    print("up", flush=True)
    sys.stdin.readline()
    for other in others:
        handle.connect_peer((other, 6881))
    wait(running, handle)
    print("done", flush=True)
    sys.stdin.read()


def add(within: lt.session, torrent: str, folder: str, *, seeds: bool) -> lt.torrent_handle:
    params = lt.load_torrent_file(torrent)
    params.save_path = folder
    params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    if seeds:
        params.flags |= lt.torrent_flags.seed_mode
    return within.add_torrent(params)


def make(path: str, torrent: str) -> None:
    creator = lt.create_torrent(lt.list_files(path), 0, lt.create_torrent.v1_only)
    lt.set_piece_hashes(creator, str(Path(path).parent))
    Path(torrent).write_bytes(lt.bencode(creator.generate()))


def seed(torrent: str, folder: str) -> None:
    seeding = session()
    wait(seeding, add(seeding, torrent, folder, seeds=True))
    print(seeding.listen_port(), flush=True)
    sys.stdin.read()


def leech(torrent: str, folder: str, port: int) -> None:
    leeching = session()
    handle = add(leeching, torrent, folder, seeds=False)
    handle.connect_peer(("127.0.0.1", port))
    wait(leeching, handle)
    # The session's end, which comes now, writes what is not yet written.


def wait(on: lt.session, handle: lt.torrent_handle) -> None:
    """Until everything is there."""
    deadline = time.monotonic() + PATIENCE
    while not handle.status().is_seeding:
        on.wait_for_alert(20)
        for alert in on.pop_alerts():
            if alert.category() & lt.alert.category_t.error_notification:
                print(alert, file=sys.stderr, flush=True)
        if time.monotonic() > deadline:
            sys.exit("not complete in time")


def main() -> None:
    role, *args = sys.argv[1:]
    if role == "make":
        make(args[0], args[1])
    elif role == "seed":
        seed(args[0], args[1])
    elif role == "member":
        member(args[0], args[1], args[2], args[3] == "1", args[4:])
    else:
        leech(args[0], args[1], int(args[2]))


if __name__ == "__main__":
    main()
