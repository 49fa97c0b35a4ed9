"""The control socket's listening side: who may come in, and the socket's life on disk.

What is said on a connection is in :mod:`p2pd.control.session`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Any

from twisted.internet import defer, tcp, unix
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from p2pd.control import commands, paths
from p2pd.control.output import Limits
from p2pd.control.session import Emit, Handlers, Session
from p2pd.errors import RefusedError

__all__ = ["ControlService", "Emit", "Handlers", "Limits"]

log = Logger()


class ControlService:
    """Listens on the UNIX socket ``path`` and has ``handlers`` answer.

    Opened by :meth:`start`, closed by :meth:`stop`, both called by the daemon's
    composition root. ``role`` (`peer` or `manager`) chooses the commands; for
    each, ``handlers`` has ``async def cmd_NAME(args, emit) -> dict`` (see
    :class:`~p2pd.control.session.Handlers`).
    """

    def __init__(
        self, reactor: Any, path: str, handlers: Handlers, role: str, limits: Limits | None = None
    ) -> None:
        self.path = os.path.abspath(path)
        self.role = role
        self._reactor = reactor
        self._handlers = handlers
        self._limits = limits or Limits()
        self._port: _Port | None = None
        self._sessions: set[Session] = set()

    async def start(self) -> None:
        """Listen. RefusedError with a sentence where the place is taken, unsafe or impossible."""
        if len(os.fsencode(self.path)) > paths.MAX_PATH:
            raise RefusedError(
                f"The control socket's path is longer than {paths.MAX_PATH} bytes: {self.path}."
            )
        commands.prepare()
        paths.prepare(self.path)
        with _alone_in(os.path.dirname(self.path)):
            _clear_stale(self.path)
            self._port = self._listen()

    def _listen(self) -> _Port:
        port = _Port(os.fsencode(self.path), _Factory(self), 50, 0o600, self._reactor)
        # Twisted sets the mode after the bind only; with the umask there is no moment in between
        umask = os.umask(0o177)
        try:
            port.startListening()  # type: ignore[no-untyped-call]
        except OSError as error:
            raise RefusedError(f"The control socket {self.path} cannot be made: {error.strerror}.") from error
        except Exception as error:
            # CannotListenError; anything else must not pass for a started service either
            raise RefusedError(f"The control socket {self.path} cannot be made: {error}") from error
        finally:
            os.umask(umask)
        port.remember()
        return port

    async def stop(self) -> None:
        """Remove the socket if it is still ours, then end what runs and close the connections.

        Running commands are cancelled and answered with a `failed`, a running
        ``left_peer`` with its `done`. Takes at most ``limits.farewell`` seconds.
        """
        port, self._port = self._port, None
        if port is not None:
            port.remove()
            await defer.maybeDeferred(port.stopListening)
        sessions = list(self._sessions)
        await defer.DeferredList([session.shut_down() for session in sessions])

    def build_session(self) -> Session | None:
        """A session for a new connection; one that only says no, or None, where there are too many."""
        refusal = None
        if len(self._sessions) >= self._limits.sessions:
            log.warn("control socket: more than {count} connections", count=self._limits.sessions)
            if len(self._sessions) >= 2 * self._limits.sessions:
                return None
            refusal = f"The daemon has {self._limits.sessions} clients on its control socket already."
        session = Session(
            self._reactor,
            self._handlers,
            self.role,
            self._limits,
            self._sessions.discard,
            refusal=refusal,
        )
        self._sessions.add(session)
        return session


class _Factory(Factory):
    noisy = False

    def __init__(self, service: ControlService) -> None:
        self._service = service

    def buildProtocol(self, addr: IAddress | None) -> Session | None:
        return self._service.build_session()


class _Port(unix.Port):
    """Twisted's port unlinks whatever lies at its path when it closes; this one only its own socket."""

    _identity: tuple[int, int] | None = None

    def remember(self) -> None:
        """Note which inode is ours."""
        self._identity = _identity(self._bindPath)

    def remove(self) -> None:
        """Unlink the socket if it is still ours."""
        if self._identity is not None and _identity(self._bindPath) == self._identity:
            with contextlib.suppress(OSError):
                os.unlink(self._bindPath)
        self._identity = None

    def connectionLost(self, reason: Failure) -> None:
        self.remove()
        tcp.Port.connectionLost(self, reason)


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """One daemon at a time: between another's bind and its listen, its socket looks like a dead one's.

    Who cannot get the lock within a second goes on without: some other program has it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(50):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(descriptor)


def _identity(path: bytes) -> tuple[int, int] | None:
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _clear_stale(path: str) -> None:
    """Unlink the socket of a daemon that was killed; RefusedError for anything else that lies there."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RefusedError(f"The control socket {path} cannot be made: {error.strerror}.") from error
    if stat.S_ISLNK(info.st_mode):
        raise RefusedError(f"A symbolic link lies where the control socket should be: {path}.")
    if not stat.S_ISSOCK(info.st_mode):
        raise RefusedError(f"Something that is not a socket lies where the control socket should be: {path}.")
    if info.st_uid != os.geteuid():
        raise RefusedError(f"The control socket {path} belongs to somebody else (uid {info.st_uid}).")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog (EAGAIN) is a sign of life, not a reason to wait
        problem = probe.connect_ex(path)
    if problem == errno.ECONNREFUSED:
        os.unlink(path)
        log.info("replaced the control socket that a killed daemon left: {path}", path=path)
    elif problem in (0, errno.EAGAIN):
        raise RefusedError(f"Another daemon answers on the control socket {path}.")
    elif problem != errno.ENOENT:
        raise RefusedError(f"The control socket {path} cannot be replaced: {os.strerror(problem)}.")
