"""The seeds: an input for each target and each message; ``python -m tests.fuzz.seeds`` writes them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from p2pd.model import FileId, Manifest, TransferId
from p2pd.share.job import Job, dump_job
from p2pd.share.partial import dump_manifest
from p2pd.wire import messages as m
from p2pd.wire.codec import encode

CORPUS = Path(__file__).parent / "corpus"
FILE = "ab" * 32
PEER = "cd" * 16
ROW = m.PeerRow(PEER, "lab-7001", "10.0.0.5", 7001)
VALUES: dict[str, Any] = {
    "code": "refused", "message": "why: Grüße\u202e", "verb": "shuffle", "number": 7, "major": 1, "minor": 0,
    "id": PEER, "name": "a/b\nc.bin", "port": 7001, "req": 1, "piece_size": 65536, "size": 9, "file": FILE,
    "bitfield": 1, "done": 3, "length": 32, "count": 3, "grant": 1, "bytes": 16777216, "offset": 0,
    "listen": ["0.0.0.0", "::"], "advertise": "10.0.0.5", "cookie": "9ziS35fdRYp4", "lease": 30,
    "host": "10.0.0.5", "problem": "", "serial": 1, "page": 0, "last": True, "rows": [ROW], "joined": [ROW],
    "left": [PEER], "place": 0, "first": 2, "once": False, "others": [ROW], "pieces": "0-3,7",
    "needed": False, "later": True,
}  # fmt: skip
LINES = [
    b"req bison.exe --no-wait --timeout 2.5",
    b"req 'sub dir/a b.bin' --id " + FILE.encode() + b" --from anna otto --output x --replace",
    b"help req",
    b'pieces "unended',
]
DIRECTIONS = {b"p": m.PEER_TO_PEER, b"m": m.PEER_TO_MANAGER, b"u": m.MANAGER_TO_PEER}


def message(cls: type[m.Message]) -> m.Message:
    """One of that class."""
    names = [field.name for field in attrs.fields(cls)]  # type: ignore[arg-type]
    values = {name: VALUES[name] for name in names}
    if cls in (m.Hello, m.NewPeer):
        values["name"] = "lab-7001"
    return cls(**values)


def seeds() -> dict[str, bytes]:
    """Name and input of each."""
    made: dict[str, bytes] = {}
    for letter, table in DIRECTIONS.items():
        for verb, cls in table.items():
            said = message(cls)
            made[f"{letter.decode()}-{verb.replace(' ', '_')}"] = (
                letter + b"\x07" + encode(said) + b"\0" * said.body_length
            )
    hello, others = m.PEER_TO_PEER["hello"], (m.Req, m.Want, m.Have, m.Get, m.Ping)
    made["c-introduced"] = b"c\0" + b"".join(
        encode(message(each)) + b"\0" * message(each).body_length for each in others
    )
    made["c-hello"] = b"c\xff" + encode(message(hello)) + encode(message(m.Req)) + b"shuffle {}\n"
    for number, line in enumerate(LINES):
        made[f"l-{number}"] = b"l" + line
    job = Job(
        TransferId("0123456789ab"), "a/b.bin", output="c", file_id=FileId(FILE), sha256=FILE,
        sources=("anna",), size=10 * 65536 + 1, piece_size=65536, created=1,
    )  # fmt: skip
    made["s-job"] = b"s" + dump_job(job, "0-3,7")
    made["f-manifest"] = b"f" + dump_manifest(Manifest(65537, 65536, b"h" * 64))
    return made


def main() -> None:
    """Write them."""
    CORPUS.mkdir(exist_ok=True)
    for name, data in seeds().items():
        (CORPUS / name).write_bytes(data)


if __name__ == "__main__":
    main()
