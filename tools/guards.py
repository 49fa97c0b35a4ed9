"""Shows that the tests of the fault catalogue fail when the guard they test is taken out.

Each ``tests/faults/guards/*.toml`` holds ``[[guard]]`` tables: ``numbers`` of the
catalogue, ``file``, ``old`` and ``new`` text (the guard, and the code without it),
and ``test``, a pytest id that must then fail. For each, the project is copied, the
copy is changed, and the test is run there; the test must pass in an unchanged copy.
Arguments: numbers to try, default all. Exits 1 where a test did not notice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
PARTS = ("p2pd", "twisted", "tests", "benchmarks", "setup.cfg", "pyproject.toml", "docs")


def run(copy: Path, test: str) -> bool:
    """True where the test passes in the copy."""
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "P2PD_PATIENCE": "20"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", test],
        cwd=copy, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        raise SystemExit(f"{test} could not be run:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def make_copy(folder: str) -> Path:
    """The parts of the project that a test needs."""
    copy = Path(folder) / "copy"
    copy.mkdir()
    for part in PARTS:
        source = TOP / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        else:
            shutil.copy(source, copy / part)
    return copy


def try_guard(guard: dict[str, Any], passed: dict[str, bool]) -> str:
    """One guard: ``ok``, or what is wrong."""
    test = guard["test"]
    with tempfile.TemporaryDirectory() as folder:
        copy = make_copy(folder)
        if test not in passed:
            passed[test] = run(copy, test)
        if not passed[test]:
            return "the test fails with the guard in place"
        target = copy / guard["file"]
        text = target.read_text()
        if text.count(guard["old"]) != 1:
            return f"the guard stands {text.count(guard['old'])} times in {guard['file']}"
        target.write_text(text.replace(guard["old"], guard["new"]))
        return "the test passes without the guard" if run(copy, test) else "ok"


def main() -> int:
    """Try the guards named, or all."""
    wanted = {int(each) for each in sys.argv[1:]}
    passed: dict[str, bool] = {}
    bad = 0
    for path in sorted((TOP / "tests/faults/guards").glob("*.toml")):
        for guard in tomllib.loads(path.read_text())["guard"]:
            if wanted and not wanted & set(guard["numbers"]):
                continue
            verdict = try_guard(guard, passed)
            bad += verdict != "ok"
            print(
                f"{', '.join(map(str, guard['numbers'])):>12}  {guard['test'].split('::')[-1]}: {verdict}",
                flush=True,
            )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
