"""Where the control sockets lie, and whether a folder is safe to put one in.

Standard library only, and little of it: the client imports this at every start.
"""

from __future__ import annotations

import os
import stat

from p2pd.errors import RefusedError

MAX_PATH = 107
"""Bytes that Linux takes as the path of a UNIX socket."""
ROLES = ("peer", "manager")


def control_folder() -> str:
    """The default folder: systemd's, else the user's run-time folder, else one under the temporary folder."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if runtime:
        return runtime
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base):  # the XDG specification wants other values ignored
        return os.path.join(base, "p2pd")
    # tempfile.gettempdir would do, but importing it costs the client 10 ms
    for temp in (os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")):
        if os.path.isdir(temp):
            break
    else:
        temp = "/tmp"
    return os.path.join(os.path.abspath(temp), f"p2pd-{os.geteuid()}")


def socket_path(role: str, port: int) -> str:
    """The default socket of the daemon that listens on ``port``; ``role``: `peer` or `manager`."""
    return os.path.join(control_folder(), f"{role}-{port}.sock")


def socket_folders() -> list[str]:
    """The folders to look into for daemons: this user's own, and systemd's ``/run/p2pd*`` if readable."""
    folders = [control_folder()]
    try:
        run = sorted(name for name in os.listdir("/run") if name.startswith("p2pd"))
    except OSError:
        run = []
    folders += [path for path in (os.path.join("/run", name) for name in run) if path not in folders]
    return [path for path in folders if _is_trusted(path)]


def list_sockets() -> list[tuple[str, int, str]]:
    """All control sockets in the default places as (role, port, path), peers first; dead ones too."""
    found = []
    for folder in socket_folders():
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            role, _, rest = name.partition("-")
            port, _, suffix = rest.partition(".")
            if role in ROLES and suffix == "sock" and port.isascii() and port.isdigit() and len(port) <= 5:
                found.append((role, int(port), os.path.join(folder, name)))
    return sorted(found, key=lambda item: (ROLES.index(item[0]), item[1:]))


def _is_trusted(path: str) -> bool:
    """True for a readable folder that is ours or root's: anybody could make the one under ``/tmp``."""
    try:
        owner = os.stat(path).st_uid
    except OSError:
        return False
    user = os.geteuid()
    return (user == 0 or owner in (user, 0)) and os.access(path, os.R_OK | os.X_OK)


def ensure_folder(path: str) -> None:
    """Make the default folder ``path``, 0700.

    RefusedError where it is a symlink, no folder, somebody else's, or cannot be
    made or closed to others.
    """
    try:
        _make(path)
        info = os.lstat(path)
        if stat.S_ISLNK(info.st_mode):
            raise RefusedError(f"The control folder {path} is a symbolic link.")
        if not stat.S_ISDIR(info.st_mode):
            raise RefusedError(f"The control folder {path} is not a folder.")
        if info.st_uid != os.geteuid():
            raise RefusedError(f"The control folder {path} belongs to somebody else (uid {info.st_uid}).")
        if info.st_mode & 0o077:
            os.chmod(path, 0o700)  # ours and a folder of p2pd's only: nobody chose this mode
    except OSError as error:
        raise RefusedError(f"The control folder {path} cannot be used: {error.strerror}.") from error


def ensure_parent(path: str) -> None:
    """Make the folder of a socket that the user named; 0700 where it is new, never changed where it is not.

    RefusedError where it cannot be made, or others could replace the socket in it.
    """
    try:
        _make(path)
        info = os.stat(path)
    except OSError as error:
        raise RefusedError(f"The control folder {path} cannot be used: {error.strerror}.") from error
    if not stat.S_ISDIR(info.st_mode):
        raise RefusedError(f"The control folder {path} is not a folder.")
    if info.st_mode & 0o022 and info.st_uid != os.geteuid():
        raise RefusedError(f"The control folder {path} is somebody else's and others may write to it.")


def prepare(path: str) -> None:
    """Make the folder of the socket ``path``: by the rules of the default place where it lies there."""
    folder = os.path.dirname(os.path.abspath(path))
    if folder == os.path.abspath(control_folder()):
        ensure_folder(folder)
    else:
        ensure_parent(folder)


def _make(path: str) -> None:
    """Make ``path`` and what lacks above it, 0700 each; OSError."""
    if os.path.lexists(path):
        return
    parent = os.path.dirname(path)
    if parent and parent != path:
        _make(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return  # another daemon that starts made it at the same moment
