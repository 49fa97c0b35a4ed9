"""The control socket's other side: blocking, standard library only, for `p2pctl` and scripts.

>>> with connect("/run/user/1000/p2pd/peer-7001.sock") as daemon:
...     for event in daemon.ask(["req", "bison.exe"]):
...         print(event)
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from p2pd.control import commands, paths
from p2pd.errors import BY_CODE, NoDaemonError, P2PError, RefusedError, UsageError

Event = dict[str, Any]

_PATIENCE = 5.0
"""Seconds for the daemon to take the connection; also for the short answers that choose a daemon."""
_FAREWELL = 10.0
"""Seconds that a daemon which said that it leaves may still take."""


class Daemon(NamedTuple):
    """A daemon that answers: its role, port, socket, and the name that its ``status`` gives."""

    role: str
    port: int
    path: str
    name: str = ""


class Connection:
    """An open control socket. Not for several threads."""

    def __init__(self, path: str, connected: socket.socket) -> None:
        self.path = path
        self._socket = connected
        self._buffer = bytearray()
        self._wake: int | None = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; what the daemon does for others, or in the background, goes on."""
        self._socket.close()

    def ask(self, words: Sequence[str], timeout: float | None = None) -> Iterator[Event]:
        """Send one command; yield its events, `done` last.

        The P2PError of a `failed` is raised; NoDaemonError where the daemon goes away
        or says nothing for ``timeout`` seconds, UsageError for words no line can hold.
        """
        line = commands.join(words)
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(line, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it hung up; what it said before (why) is still there to be read
        except TimeoutError as error:
            raise NoDaemonError(f"The daemon on {self.path} does not answer.") from error
        while True:
            event = self._event()
            kind = event.get("event")
            if kind == "failed":
                raise _error_of(event)
            yield event
            if kind == "done":
                return

    @property
    def more(self) -> bool:
        """True where a further event is here already."""
        return b"\n" in self._buffer

    def answer(self, words: Sequence[str], timeout: float | None = None) -> Event:
        """Send one command, pass over its events, return its `done`; errors as by :meth:`ask`."""
        event: Event = {}
        for event in self.ask(words, timeout):  # noqa: B007  the last one is wanted
            pass
        return event

    def wait_for_end(self) -> None:
        """Return when the daemon has closed the connection; NoDaemonError after 10 s."""
        self._socket.settimeout(_FAREWELL)
        try:
            while self._socket.recv(65536):
                pass
        except ConnectionResetError:
            return
        except TimeoutError as error:
            raise NoDaemonError(
                f"The daemon on {self.path} said that it leaves, but does not end."
            ) from error

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within this, Ctrl-C ends any wait for the daemon; for the main thread.

        Without it a signal that comes just before the wait is only noticed after it.
        """
        self._wake, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(writing)
            os.close(self._wake)
            self._wake = None

    def _wait(self) -> None:
        while self._wake is not None:
            readable, _, _ = select.select([self._socket.fileno(), self._wake], [], [])
            if self._socket.fileno() in readable:
                return
            os.read(self._wake, 4096)  # KeyboardInterrupt comes of itself

    def _event(self) -> Event:
        try:
            event = json.loads(self._line())
        except ValueError as error:
            raise P2PError("The daemon's answer is not understood.") from error
        if not isinstance(event, dict):
            raise P2PError("The daemon's answer is not understood.")
        return event

    def _line(self) -> bytes:
        start = 0
        while True:
            end = self._buffer.find(b"\n", start)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return line
            start = len(self._buffer)
            try:
                self._wait()
                data = self._socket.recv(1 << 18)
            except ConnectionResetError:
                data = b""
            except TimeoutError as error:
                raise NoDaemonError(f"The daemon on {self.path} does not answer.") from error
            if not data:
                raise NoDaemonError(
                    f"The daemon on {self.path} went away before it answered; what came is kept."
                )
            self._buffer += data


def connect(path: str, timeout: float = _PATIENCE) -> Connection:
    """Connect to the daemon at ``path``, in ``timeout`` seconds.

    NoDaemonError where none answers, RefusedError where the socket is closed to
    this user, UsageError where ``path`` cannot be a socket.
    """
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.settimeout(timeout)
        opened.connect(path)
        opened.settimeout(None)
    except OSError as error:
        opened.close()
        if error.errno in (errno.EACCES, errno.EPERM):
            raise RefusedError(f"The control socket {path} is not open to this user.") from error
        if error.errno in (errno.ENAMETOOLONG, None) and not isinstance(error, TimeoutError):
            raise UsageError(f"{path} is too long for the path of a socket.") from error
        raise NoDaemonError(f"No daemon answers on {path}.") from error
    except ValueError as error:  # a NUL in the path
        opened.close()
        raise UsageError("The path of the socket is not a path.") from error
    return Connection(path, opened)


def connect_port(port: int) -> Connection:
    """Connect to the peer, else the manager, that listens on ``port``; NoDaemonError."""
    refused: P2PError | None = None
    for _, number, path in paths.list_sockets():
        if number == port:
            try:
                return connect(path)
            except RefusedError as error:
                refused = error
            except NoDaemonError:
                continue
    raise refused or NoDaemonError(f"No daemon of this user's answers for port {port}.")


def connect_name(name: str) -> Connection:
    """Connect to the daemon that calls itself ``name``; NoDaemonError, or UsageError where several do."""
    return _only(
        [daemon for daemon in live_daemons() if daemon.name == name],
        f"No daemon of this user's is named {name!r}.",
        f"Several daemons are named {name!r}; choose one with --port or --socket:",
    )


def connect_only() -> Connection:
    """Connect to the only daemon of this user's; NoDaemonError, or UsageError with all where several run."""
    return _only(
        live_daemons(),
        "No daemon of this user's runs.",
        "Several daemons run; choose one with --port, --name or --socket:",
    )


def live_daemons() -> list[Daemon]:
    """Every daemon that answers in the default places and lets this user in, peers first."""
    found = []
    for role, port, path in paths.list_sockets():
        try:
            with connect(path) as connection:
                status = connection.answer(["status"], _PATIENCE)
        except (NoDaemonError, RefusedError):
            continue
        except P2PError:
            status = {}
        found.append(Daemon(role, port, path, str(status.get("name", ""))))
    return found


def identity(path: str) -> tuple[int, int] | None:
    """What tells the socket at ``path`` from a later one there; None where none lies there."""
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _only(daemons: list[Daemon], none: str, several: str) -> Connection:
    if not daemons:
        raise NoDaemonError(none)
    if len(daemons) > 1:
        raise UsageError(
            several,
            daemons=[
                {"role": one.role, "name": one.name, "port": one.port, "socket": one.path} for one in daemons
            ],
        )
    return connect(daemons[0].path)


def _error_of(event: Event) -> P2PError:
    code = str(event.get("code", ""))
    details = {key: value for key, value in event.items() if key not in ("event", "code", "message")}
    return BY_CODE.get(code, P2PError)(str(event.get("message", "The daemon gives no reason.")), **details)
