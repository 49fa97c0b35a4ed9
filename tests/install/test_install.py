"""The ways of installing, each in a virtual environment of its own that knows nothing of this checkout."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.rig import Host

TOP = Path(__file__).resolve().parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", "*.egg-info", "dropin.cache", "build", "dist", ".hypothesis", ".*_cache",
    "*.pyc",
)  # fmt: skip
PATIENCE = 300
BESIDE = [
    "p2pd/p2ppeer@.service",
    "p2pd/p2ppeer.env.example",
    "man/man1/p2pctl.1",
    "bash-completion/completions/p2pctl.bash",
    "zsh/site-functions/_p2pctl",
    "fish/vendor_completions.d/p2pctl.fish",
]
"""What the wheel brings besides modules and programs, below share/."""

# Installing is the slowest of all that is tested.
pytestmark = pytest.mark.timeout(900)


# They point at this checkout, or would have everything compiled again at every start.
IN_THE_WAY = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


def run(*command: str | Path, cwd: Path | str = "/", env: dict[str, str] | None = None) -> str:
    """What a command that must succeed prints."""
    outside = {key: value for key, value in os.environ.items() if key not in IN_THE_WAY}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**outside, **(env or {})}, timeout=PATIENCE, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@attrs.frozen
class Built:
    """``dist`` has one sdist and the wheel built from it; ``wheels`` all that an installation needs."""

    dist: Path
    wheels: Path

    @property
    def sdist(self) -> Path:
        (found,) = self.dist.glob("*.tar.gz")
        return found

    @property
    def wheel(self) -> Path:
        (found,) = self.dist.glob("*.whl")
        return found


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built and downloaded once, with pip as it is configured; what follows is done without any index."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of all workers
    made = Built(base / "dist", base / "wheels")
    with (base / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "install.done").exists():
            source = copy_source(base / "source-of-dist")
            run(sys.executable, "-m", "build", "--outdir", made.dist, source)
            needed: list[str | Path] = [made.wheel, "setuptools >= 68"]
            run(sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", made.wheels, *needed)
            (base / "install.done").touch()
    return made


def copy_source(target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(TOP, target, ignore=NOT_SOURCE)
    return target


def fresh(folder: Path) -> Path:
    """A new virtual environment; its folder of programs."""
    venv.create(folder, with_pip=False)
    return folder / "bin"


def install(bin: Path, built: Built, *what: str | Path) -> None:
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", bin / "python", "install", "--quiet"]
    # What is imported is compiled then, which is less than all.
    run(*pip, "--no-compile", "--no-index", "--find-links", built.wheels, *what)


def from_outside(made: Host) -> Host:
    for name in IN_THE_WAY:
        made.env.pop(name, None)
    return made


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, for control sockets and environments."""
    host = Host()
    yield host.folder
    host.close()


def works(bin: Path, env: dict[str, str] | None = None) -> None:
    """Both plugins are there from any directory, and a file goes from one peer to another."""
    host = from_outside(Host(bin=bin))
    host.env.update(env or {})
    try:
        for cwd in ("/", host.folder):
            text = run(bin / "twistd", "--help", cwd=cwd, env=env)
            assert re.findall(r"^    (p2p\w+) ", text, re.M) == ["p2pmanager", "p2ppeer"]
            assert re.fullmatch(r"p2pctl \d+\.\d+\.\d+\n", run(bin / "p2pctl", "version", cwd=cwd, env=env))
        assert "--piece-size" in run(bin / "twistd", "p2ppeer", "--help", env=env)
        manager = host.manager()
        host.peer("anna", manager=manager, files={"bison.exe": os.urandom(300_000)})
        boris = host.peer("boris", manager=manager)
        boris.wait_peers(1)
        done = boris.ctl("req", "bison.exe")
        assert done.returncode == 0, done.stderr
        got = (host.folder / "boris" / "bison.exe").read_bytes()
        assert got == (host.folder / "anna" / "bison.exe").read_bytes()
    finally:
        host.close()


@pytest.mark.parametrize("how", [".", "-e .", "wheel"])
def test_installed(built: Built, place: Path, tmp_path: Path, how: str) -> None:
    bin = fresh(place / "venv")
    source = copy_source(tmp_path / "source")
    if how == "wheel":
        install(bin, built, built.wheel)
    else:
        install(bin, built, *how.split()[:-1], source)
    where = Path(run(bin / "python", "-c", "import p2pd; print(p2pd.__file__)").strip())
    assert where.is_relative_to(source if how == "-e ." else place / "venv")
    if how != "-e .":  # an editable installation has no data files
        shutil.rmtree(source)
        for name in BESIDE:
            assert (place / "venv/share" / name).is_file()
    works(bin)


def test_a_second_place_does_not_hide_the_plugins(built: Built, place: Path, tmp_path: Path) -> None:
    """Twisted in the one place, p2pd in another: as with `pip install --user` beside a packaged Twisted."""
    bin = fresh(place / "venv")
    install(bin, built, built.wheel)
    run(sys.executable, "-m", "pip", "--python", bin / "python", "uninstall", "--quiet", "-y", "p2pd")
    other = tmp_path / "other"
    install(bin, built, "--no-deps", "--target", other, built.wheel)
    shutil.copy(other / "bin" / "p2pctl", bin / "p2pctl")
    works(bin, {"PYTHONPATH": str(other)})


@pytest.mark.needs("unshare", "mount", "root")
def test_where_nothing_may_be_written(built: Built, place: Path) -> None:
    """Twisted cannot keep its list of plugins then: it works, and one line says so until root has run it."""
    bin = fresh(place / "venv")
    install(bin, built, built.wheel)
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, str(place / "venv")]
    warning = "Unable to write to plugin cache"
    host = from_outside(Host(bin=bin))
    try:
        manager = host.manager(prefix=prefix)
        assert manager.status()["role"] == "manager"
        manager.console.wait(warning)
        assert manager.stop() == 0
        run(bin / "twistd", "--help")
        manager = host.manager(prefix=prefix)
        assert manager.stop() == 0
        assert warning not in manager.console.text()
    finally:
        host.close()


def test_the_sdist_has_all_of_the_source(built: Built, tmp_path: Path) -> None:
    source = copy_source(tmp_path / "source")
    ours = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    with tarfile.open(built.sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert ours - packed == set()


def test_the_wheel_has_nothing_else(built: Built) -> None:
    names = zipfile.ZipFile(built.wheel).namelist()
    modules = [
        str(path.relative_to(TOP)) for path in (TOP / "p2pd").rglob("*") if path.suffix in (".py", ".sql")
    ]
    modules += ["p2pd/py.typed", "twisted/plugins/p2pd_plugins.py"]
    assert sorted(modules) == sorted(name for name in names if not name.startswith("p2pd-"))
