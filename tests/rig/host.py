"""One machine under test: daemons in a folder of its own, started as people start them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs

PATIENCE = float(os.environ.get("P2PD_PATIENCE", "30"))
"""Seconds after which what is awaited counts as not coming."""
BIN = Path(sys.executable).parent


@attrs.frozen
class Result:
    """What a command said: ``events`` are its JSON lines, the last one `done` or `failed`."""

    events: list[dict[str, Any]]

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def done(self) -> dict[str, Any]:
        assert self.last["event"] == "done", self.last
        return self.last

    @property
    def code(self) -> str:
        assert self.last["event"] == "failed", self.last
        return str(self.last["code"])

    @property
    def items(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "item"]


def wait_until(
    check: Callable[[], Any], what: str, patience: float = PATIENCE, every: float = 0.02
) -> Any:  # fmt: skip
    """Poll ``check`` until it is true; for what gives no event, such as /proc."""
    deadline = time.monotonic() + patience
    never = threading.Event()
    while not (found := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {patience} s")
        never.wait(every)
    return found


class Console:
    """The lines a process prints, kept, and awaited."""

    def __init__(self, stream: Any) -> None:
        self.lines: list[str] = []
        self.times: list[float] = []
        """Of each line, when it came: monotonic seconds."""
        self._news = threading.Condition()
        self._ended = False
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: Any) -> None:
        for line in stream:
            with self._news:
                self.times.append(time.monotonic())
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def alive(self) -> bool:
        """False once the process has closed its output, and all lines are here."""
        return not self._ended

    def wait(self, pattern: str, count: int = 1, patience: float = PATIENCE) -> re.Match[str]:
        """The ``count``-th line that fits; an AssertionError with the console where none comes."""

        def found() -> list[re.Match[str]]:
            return [m for m in (re.search(pattern, line) for line in self.lines) if m]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= count or self._ended, patience)
            hits = found()
            assert len(hits) >= count, f"{pattern!r} not on the console:\n{self.text()}"
            return hits[count - 1]

    def text(self) -> str:
        return "\n".join(self.lines)


class Daemon:
    """A running daemon. ``role``: ``p2ppeer`` or ``p2pmanager``."""

    def __init__(
        self, host: Host, role: str, args: Sequence[str], *, wait: bool = True, prefix: Sequence[str] = (),
        env: dict[str, str] | None = None, twistd: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.host, self.role, self.args, self._prefix = host, role, list(args), list(prefix)
        self._twistd = list(twistd)
        self._env = env or {}
        self.share: Path | None = None
        self.port = 0
        self.start(wait)

    def start(self, wait: bool = True) -> None:
        """Start it (again)."""
        command = [*self._prefix, str(self.host.bin / "twistd"), "-n", *self._twistd, self.role, *self.args]
        self.process = subprocess.Popen(
            command, cwd=self.host.folder, env={**self.host.env, **self._env}, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1,
        )  # fmt: skip
        self.console = Console(self.process.stdout)
        if wait:
            self.wait_up()

    def wait_up(self) -> None:
        """Until it listens and its control socket is there."""
        self.port = int(self.console.wait(r"listening on .* port (\d+), for").group(1))
        wait_until(self.socket_path.exists, f"{self.socket_path}")

    @property
    def socket_path(self) -> Path:
        kind = "peer" if self.role == "p2ppeer" else "manager"
        return self.host.run / "p2pd" / f"{kind}-{self.port}.sock"

    @property
    def pid(self) -> int:
        """Of Python, also below strace or unshare."""
        pid = self.process.pid
        while self._prefix:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not children:
                break
            pid = int(children[0])
        return pid

    def ask(self, line: str, patience: float = PATIENCE) -> Result:
        """One line to the control socket; all its answers."""
        return Result(list(self.events(line, patience)))

    def events(self, line: str, patience: float = PATIENCE) -> Generator[dict[str, Any], None, None]:
        """The answers one by one."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(patience)
            client.connect(str(self.socket_path))
            client.sendall(line.encode() + b"\n")
            for text in client.makefile("r", encoding="utf-8"):
                event = json.loads(text)
                yield event
                if event["event"] in ("done", "failed"):
                    return
            raise AssertionError(f"{line}: the daemon closed the connection\n{self.console.text()}")

    def begin(self, line: str, patience: float = PATIENCE) -> Future[Result]:
        """:meth:`ask`, in a thread of its own; its result is to be asked for."""
        future: Future[Result] = Future()

        def work() -> None:
            try:
                future.set_result(self.ask(line, patience))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future

    def status(self) -> dict[str, Any]:
        return self.ask("status").done

    def ctl(self, *args: str, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """``p2pctl --port N ARGS``, as a process."""
        return self.host.ctl("--port", str(self.port), *args, patience=patience)

    def wait_files(self, count: int) -> None:
        """Until so many files are shared and hashed."""
        wait_until(
            lambda: sum(1 for item in self.ask("files").items if item["id"]) >= count,
            f"{count} files hashed\n{self.console.text()[-2000:]}",
        )

    def wait_peers(self, count: int) -> None:
        """Until it knows so many others."""
        wait_until(
            lambda: len(self.ask("peers").items) == count,
            f"{count} peers known\n{self.console.text()[-2000:]}",
        )

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        os.kill(self.pid, number)
        return self.process.wait(PATIENCE)

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss(self) -> int:
        """Bytes of memory."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


class Host:
    """A folder for everything; daemons are stopped at the end.

    It is made in ``parent``, by default the system's temporary folder. ``bin``: where the programs are.
    """

    def __init__(self, parent: Path | None = None, bin: Path = BIN) -> None:
        self.bin = bin
        # Short: a UNIX socket's path has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="p2pt", dir=parent))
        self.run = self.folder / "run"
        self.run.mkdir(mode=0o700)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "P2PD_"))},
            "XDG_RUNTIME_DIR": str(self.run),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "HOME": str(self.folder),
            "PYTHONUNBUFFERED": "1",
        }
        self.env.pop("RUNTIME_DIRECTORY", None)
        self.env.pop("STATE_DIRECTORY", None)
        self.daemons: list[Daemon] = []
        self._closers: list[Callable[[], object]] = []

    def on_close(self, closer: Callable[[], object]) -> None:
        self._closers.append(closer)

    def manager(self, *args: str, wait: bool = True, prefix: Sequence[str] = ()) -> Daemon:
        if "--port" not in args:
            args = ("--port", "0", *args)
        daemon = Daemon(self, "p2pmanager", args, wait=wait, prefix=prefix)
        self.daemons.append(daemon)
        return daemon

    def peer(
        self, name: str, *args: str, manager: Daemon | str | None = None,
        files: dict[str, bytes] | None = None, wait: bool = True, prefix: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> Daemon:  # fmt: skip
        """A peer that shares ``name/``; with ``files`` it is awaited until they are hashed."""
        share = self.folder / name
        share.mkdir(exist_ok=True)
        for path, content in (files or {}).items():
            write_file(share / path, content)
        more = ["--name", name, "--dir", str(share)]
        if "--port" not in args:
            more += ["--port", "0"]
        if isinstance(manager, Daemon):
            manager = f"127.0.0.1:{manager.port}"
        more += ["--manager", manager] if manager else ["--no-manager"]
        daemon = Daemon(self, "p2ppeer", [*more, *args], wait=wait, prefix=prefix, env=env)
        daemon.share = share
        self.daemons.append(daemon)
        if files and wait:
            daemon.wait_files(len(files))
        return daemon

    def ctl(self, *args: str, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """``p2pctl ARGS``, as a process; its output as text."""
        return subprocess.run(
            [str(self.bin / "p2pctl"), *args], cwd=self.folder, env=self.env, text=True, capture_output=True,
            timeout=patience, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    os.kill(daemon.pid, signal.SIGKILL)
                daemon.process.kill()
            daemon.process.wait(PATIENCE)
            if daemon.process.stdout is not None:
                daemon.process.stdout.close()
        for closer in reversed(self._closers):
            closer()
        shutil.rmtree(self.folder, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """Write and name a file as a careful program does, and let it look as if written a while ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.parent / f".{path.name[:100]}.new"
    new.write_bytes(content)
    new.rename(path)
