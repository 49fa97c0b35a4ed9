"""``python -m tests.fuzz.run [SECONDS]``: fuzz all targets with atheris, which the extra `fuzz` installs.

What is found anew goes into ``.fuzz/corpus``, which later runs start from; input that breaks a
property goes into ``.fuzz/`` and ends the run with a status that is not 0. ``python -m
tests.fuzz.run FILE`` runs one such input again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["p2pd"]):
    from tests.fuzz import targets
    from tests.fuzz.seeds import CORPUS, DIRECTIONS, VALUES

FOUND = Path(".fuzz")
LONGEST = 8192
"""Bytes of an input: longer lines cost time and find nothing more."""


def dictionary(path: Path) -> None:
    """Words that libFuzzer may put in: verbs, keys, and what JSON is made of."""
    verbs = {verb for table in DIRECTIONS.values() for verb in table}
    words = [*sorted(f"{verb} {{" for verb in verbs), *sorted(f'"{key}": ' for key in VALUES)]
    words += [
        "{}",
        "[]",
        "null",
        "true",
        "-1",
        "9223372036854775808",
        "1_0",
        "1e9",
        "NaN",
        "\\ud800",
        "--from ",
    ]
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"') for word in words)
    path.write_text("".join(f'"{word}"\n' for word in quoted), "utf-8")


def main() -> None:
    """Run."""
    what = sys.argv[1] if len(sys.argv) > 1 else "600"
    if not what.isdecimal():
        targets.one(Path(what).read_bytes())
        return
    corpus = FOUND / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    dictionary(FOUND / "words")
    options: list[Any] = [
        f"-max_total_time={what}", f"-max_len={LONGEST}", f"-dict={FOUND / 'words'}", "-timeout=10",
        "-rss_limit_mb=1024", f"-artifact_prefix={FOUND}/", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus), str(CORPUS)], targets.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
