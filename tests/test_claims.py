"""Every fault that docs/faults.md claims has a test, and a guard that can be taken out."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent


def claimed() -> set[int]:
    """The numbers in the table of docs/faults.md."""
    text = (TOP / "docs/faults.md").read_text("utf-8")
    return {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}


def tested() -> set[int]:
    """The numbers in the ``fault`` marks of all tests."""
    found: set[int] = set()
    for path in (TOP / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                    found |= {each.value for each in decorator.args if isinstance(each, ast.Constant)}  # type: ignore[misc]
    return found


def guarded() -> set[int]:
    """The numbers whose guards ``tools/guards.py`` takes out."""
    found: set[int] = set()
    for path in (TOP / "tests/faults/guards").glob("*.toml"):
        for guard in tomllib.loads(path.read_text("utf-8"))["guard"]:
            found |= set(guard["numbers"])
    return found


def test_every_claimed_fault_has_a_test() -> None:
    assert claimed()
    assert claimed() - tested() == set()


def test_every_claimed_fault_has_a_guard_that_can_be_taken_out() -> None:
    assert claimed() - guarded() == set()


def test_every_guard_stands_where_it_is_said_to() -> None:
    missing = []
    for path in (TOP / "tests/faults/guards").glob("*.toml"):
        for guard in tomllib.loads(path.read_text("utf-8"))["guard"]:
            if (TOP / guard["file"]).read_text("utf-8").count(guard["old"]) != 1:
                missing.append((path.name, guard["numbers"], guard["file"]))
    assert not missing
