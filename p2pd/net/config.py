"""The file of ``--config``: TOML whose keys are the names of the options."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import attrs

from p2pd.errors import UsageError
from p2pd.text import escape

MAX_BYTES = 1024 * 1024
_KEY = re.compile(r"""\s*(?:"(?P<a>[^"]+)"|'(?P<b>[^']+)'|(?P<c>[A-Za-z0-9_-]+))\s*=""")
_TABLE = re.compile(r"\s*\[+\s*(?P<name>[^]\s]+)")


@attrs.frozen
class ConfigFile:
    """What stands in a file: the ``values`` as an option would be given them, the ``lines`` of the keys."""

    path: Path
    values: dict[str, str | bool]
    lines: dict[str, int]

    def where(self, key: str) -> str:
        """``FILE, line N``, for a sentence."""
        line = self.lines.get(key)
        return f"{escape(str(self.path))}{f', line {line}' if line else ''}"


def read_config(
    path: Path, options: Collection[str], flags: Collection[str], numbers: Collection[str],
    switches: Collection[str],
) -> ConfigFile:  # fmt: skip
    """Read and check the file. UsageError that names it, the line and the key for anything wrong.

    ``options`` take strings; those in ``numbers`` whole numbers as well, those in ``switches``
    true and false too, for ``on`` and ``off``; ``flags`` take true and false only.
    """
    text = _read(path)
    shown = escape(str(path))
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = escape(str(error))  # with the line, but for the last one
        said = said.replace("at end of document", f"at line {len(text.splitlines())}, the last one")
        raise UsageError(f"{shown}: {said}") from None
    found = ConfigFile(path, {}, _lines(text))
    for key, value in table.items():
        where, name = found.where(key), escape(key)
        if key not in options and key not in flags:
            near = difflib.get_close_matches(key, [*options, *flags], 1)
            hint = f"; is {near[0]} meant?" if near else ""
            raise UsageError(f"{where}: {name}: there is no such option{hint}")
        if key in flags or (key in switches and type(value) is bool):
            if type(value) is not bool:
                raise UsageError(f"{where}: {name}: true or false is expected, not {_kind(value)}")
            found.values[key] = value if key in flags else ("on" if value else "off")
        elif type(value) is str or (key in numbers and type(value) is int):
            found.values[key] = str(value)
        else:
            wanted = "a whole number" if key in numbers else "a string"
            raise UsageError(f"{where}: {name}: {wanted} is expected, not {_kind(value)}")
    return found


def _read(path: Path) -> str:
    shown = escape(str(path))
    try:
        # Not to hang on a FIFO; nor to read a disk.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"{shown}: not a file")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{shown}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{shown}: longer than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{shown}, line {line}: not UTF-8") from None


def _lines(text: str) -> dict[str, int]:
    """Where each key stands: tomllib does not tell."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _KEY.match(line) or _TABLE.match(line)
        if match is not None:
            name = next(each for each in match.groups() if each is not None)
            found.setdefault(name.split(".")[0], number)
    return found


def _kind(value: Any) -> str:
    names = {
        bool: "true or false", int: "a number", float: "a fraction", str: "a string", list: "a list",
        dict: "a table",
    }  # fmt: skip
    return names.get(type(value), "a date or time")
