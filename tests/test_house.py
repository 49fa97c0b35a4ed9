"""The house's rules, held over the syntax trees: imports point down only, pure parts are pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
MODULES = {
    ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (TOP / "p2pd").rglob("*.py")
}
LEVEL_ONE = {"errors", "memory", "model", "pieces", "portable", "sizes", "status", "text", "threads"}
PURE = (
    "p2pd.wire",
    "p2pd.fetch",
    "p2pd.simulate",
    "p2pd.manager.registry",
    "p2pd.manager.pages",
    "p2pd.peer.bans",
    "p2pd.peer.offers",
    "p2pd.peer.peerlist",
)
"""No I/O, no Twisted: fed by a test or a simulator, the same code."""
ROOTS = {"p2pd.peer.service", "p2pd.manager.service"}
"""The composition roots: the only ones that know all concrete classes; imported by the taps alone."""


def imports(module: str) -> set[str]:
    """The modules that a module imports, also within functions; names from packages count as modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each for each in submodules if each in MODULES} or {node.module}
            if node.module == "twisted.internet" and any(alias.name == "reactor" for alias in node.names):
                found.add("the global reactor")
    return found


def test_the_list_of_the_house_is_whole() -> None:
    listed = (TOP / "docs/architecture.md").read_text("utf-8").split("```")[1]
    words = set(listed.split())
    for path in (TOP / "p2pd").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"{path.name}/" in words
        elif path.suffix == ".py" and path.name != "__init__.py":
            assert path.name in words
    for path in (TOP / "tools").glob("*.py"):
        assert f"tools/{path.name}" in words
    assert "benchmarks/" in words


def within(name: str, *packages: str) -> bool:
    """True where ``name`` is one of the packages or lies in one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    package = module.split(".")[1] if "." in module else ""
    for name in imports(module):
        what = f"{module} imports {name}"
        if package in LEVEL_ONE:
            assert not within(name, "twisted", "p2pd") or name.split(".")[-1] in LEVEL_ONE, what
        if within(module, *PURE):
            assert not within(name, "twisted"), what
        if within(module, "p2pd.wire", "p2pd.fetch"):
            assert (
                not within(name, "p2pd")
                or within(name, "p2pd.wire", "p2pd.fetch")
                or (name.split(".")[1] in LEVEL_ONE)
            ), what
        if package == "peer":
            assert not within(name, "p2pd.manager", "p2pd.cli"), what
        if package == "manager":
            assert not within(name, "p2pd.peer", "p2pd.cli", "p2pd.share"), what
        if package in ("share", "net", "control"):
            assert not within(name, "p2pd.peer", "p2pd.manager", "p2pd.cli"), what
        if package == "cli":
            assert not within(
                name, "twisted", "attrs", "p2pd.peer", "p2pd.manager", "p2pd.share", "p2pd.net"
            ), what
        if name in ROOTS:
            assert module == name.replace(".service", ".tap"), what
        assert not name.endswith(".tap"), what
        if name == "the global reactor":
            assert module.endswith(".tap"), what


def test_the_client_loads_no_daemon_code() -> None:
    """Everything that the client reaches, not only what it imports itself."""
    reached: set[str] = set()
    waiting = [module for module in MODULES if within(module, "p2pd.cli")]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += [name for name in imports(module) if name in MODULES]
    outside = {
        name for module in reached for name in imports(module) if within(name, "twisted", "attrs", "cattrs")
    }
    assert not outside


def test_no_file_is_long() -> None:
    """About 400 lines: a longer one is more than one thing."""
    long = {
        module: n
        for module, path in MODULES.items()
        if (n := len(path.read_text("utf-8").splitlines())) > 470
    }
    assert not long
