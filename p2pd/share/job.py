"""A transfer as it lies on disk between two starts of the daemon: a small file that a person can read."""

from __future__ import annotations

import json
import re
from typing import Any

import attrs
import blake3

from p2pd.model import FileId, TransferId, check_dimensions, is_file_id
from p2pd.share.paths import is_canonical

FORMAT = 1
_TRANSFER = re.compile(r"[0-9a-f]{12}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@attrs.frozen
class Job:
    """What was asked for, and what is known of it so far. Sizes in bytes, ``created`` in unix seconds."""

    transfer: TransferId
    name: str
    output: str | None = None
    file_id: FileId | None = None
    sha256: str | None = None
    replace: bool = False
    sources: tuple[str, ...] = ()
    paused: bool = False
    size: int | None = None
    piece_size: int | None = None
    created: int = 0

    @property
    def target(self) -> str:
        """The name that the file gets here."""
        return self.output or self.name


@attrs.frozen
class Stored:
    """A job as read back: ``pieces`` are the runs held, ``finishing`` that it was about to get its name."""

    job: Job
    pieces: str
    finishing: bool


def is_transfer_id(text: str) -> bool:
    """True for 12 lower-case hex digits."""
    return _TRANSFER.fullmatch(text) is not None


def dump_job(job: Job, pieces: str, finishing: bool = False) -> bytes:
    """The state file; its ``check`` tells a damaged one."""
    state: dict[str, Any] = {
        **attrs.asdict(job),
        "sources": list(job.sources),
        "format": FORMAT,
        "pieces": pieces,
        "finishing": finishing,
    }
    state["check"] = _check(state)
    return (json.dumps(state, indent=2, sort_keys=True) + "\n").encode()


def parse_job(data: bytes) -> Stored:
    """The reverse; ValueError with the reason where the file is no good."""
    try:
        state = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(state, dict):
        raise ValueError("it is not a JSON object")
    if type(state.get("format")) is not int or state["format"] != FORMAT:
        raise ValueError(f"it is of another version than {FORMAT}")
    check = state.pop("check", None)
    if check != _check(state):
        raise ValueError("it is damaged")
    job = Job(
        transfer=TransferId(_text(state, "transfer")),
        name=_text(state, "name"),
        output=_optional(state, "output"),
        file_id=None if state.get("file_id") is None else FileId(_text(state, "file_id")),
        sha256=_optional(state, "sha256"),
        replace=_flag(state, "replace"),
        sources=_texts(state, "sources"),
        paused=_flag(state, "paused"),
        size=_number(state, "size"),
        piece_size=_number(state, "piece_size"),
        created=_number(state, "created") or 0,
    )
    names = job.name, job.target
    if not (is_transfer_id(job.transfer) and all(map(is_canonical, names))):
        raise ValueError("its names are not canonical")
    if job.file_id is not None and not is_file_id(job.file_id):
        raise ValueError("its file id is none")
    if job.sha256 is not None and not _SHA256.fullmatch(job.sha256):
        raise ValueError("its digest is none")
    if job.size is not None and job.piece_size is not None:
        check_dimensions(job.size, job.piece_size)
    return Stored(job, _text(state, "pieces"), _flag(state, "finishing"))


def _check(state: dict[str, Any]) -> str:
    return blake3.blake3(json.dumps(state, sort_keys=True).encode()).hexdigest(length=16)


def _text(state: dict[str, Any], key: str) -> str:
    value = state.get(key)
    if not isinstance(value, str):
        raise ValueError(f"its {key} is no text")
    return value


def _optional(state: dict[str, Any], key: str) -> str | None:
    return None if state.get(key) is None else _text(state, key)


def _texts(state: dict[str, Any], key: str) -> tuple[str, ...]:
    value = state.get(key)
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"its {key} are no list of texts")
    return tuple(value)


def _flag(state: dict[str, Any], key: str) -> bool:
    value = state.get(key)
    if not isinstance(value, bool):
        raise ValueError(f"its {key} is neither true nor false")
    return value


def _number(state: dict[str, Any], key: str) -> int | None:
    value = state.get(key)
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"its {key} is no number")
    return value
