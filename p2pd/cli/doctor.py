"""``p2pctl doctor``: looks at this machine, asks the daemons what they see, and says what to do."""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from p2pd import __version__
from p2pd.cli.options import Options
from p2pd.control import client, paths
from p2pd.errors import NoDaemonError, P2PError, RefusedError, UsageError
from p2pd.text import escape

PATIENCE = 15.0
FEW_WATCHES = 10_000
FEW_INSTANCES = 32
FEW_DESCRIPTORS = 512
MANY_DESCRIPTORS = 65_536
_UNSYNCHRONISED = 0x0040


class Finding(NamedTuple):
    """As :class:`p2pd.status.Check`; ``state``: `ok`, `warning` or `problem`. ``daemon``: whose it is."""

    check: str
    state: str
    message: str
    remedy: str = ""
    daemon: str = ""


def run(chosen: Options) -> int:
    """Print every finding; 0 where nothing is a problem, else 1."""
    findings = [*machine(), *daemons(chosen)]
    if chosen.json:
        import json

        for each in findings:
            print(
                json.dumps({key: value for key, value in each._asdict().items() if key != "daemon" or value})
            )
    else:
        for each in findings:
            if each.state != "ok" or not chosen.quiet:
                print(shown(each))
    return 1 if any(each.state == "problem" for each in findings) else 0


def shown(finding: Finding) -> str:
    """A line, and one more with the remedy where there is one."""
    whose = f"{escape(finding.daemon)}: " if finding.daemon else ""
    text = f"{escape(finding.state):<8} {escape(finding.check):<12} {whose}{escape(finding.message)}"
    return f"{text}\n{'':21} -> {escape(finding.remedy)}" if finding.remedy else text


# This machine


def machine() -> Iterator[Finding]:
    """What can be seen without a daemon."""
    yield _folder(paths.control_folder())
    yield from _stale()
    yield _inotify()
    yield _descriptors()
    yield _clock()


def _folder(path: str) -> Finding:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return Finding("control", "ok", f"{path} is made when a daemon starts")
    except OSError as error:
        return Finding(
            "control", "problem", f"{path}: {error.strerror}", "set XDG_RUNTIME_DIR to a folder of yours"
        )
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        text = f"{path} is no folder of this user's: no daemon can put its control socket there"
        return Finding("control", "problem", text, "remove it, or set XDG_RUNTIME_DIR to a folder of yours")
    return Finding("control", "ok", f"control sockets lie in {path}")


def _stale() -> Iterator[Finding]:
    dead = []
    for _, _, path in paths.list_sockets():
        try:
            client.connect(path, 2.0).close()
        except NoDaemonError:
            dead.append(path)
        except P2PError:
            continue
    for path in dead:
        text = f"nobody answers on {path}: its daemon was killed"
        yield Finding("socket", "warning", text, f"start that daemon again, or rm {path}")
    if not dead:
        yield Finding("socket", "ok", "every control socket has its daemon")


def _inotify() -> Finding:
    counts = {}
    for name in ("max_user_watches", "max_user_instances"):
        try:
            with open(f"/proc/sys/fs/inotify/{name}", encoding="ascii") as file:
                counts[name] = int(file.read())
        except (OSError, ValueError):
            return Finding(
                "inotify", "warning", "this system tells of no changes of files", "changes take up to 30 s"
            )
    watches, instances = counts["max_user_watches"], counts["max_user_instances"]
    text = f"{watches} folders can be watched for changes, by {instances} programs"
    if watches < FEW_WATCHES or instances < FEW_INSTANCES:
        remedy = "sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=256"
        return Finding("inotify", "warning", f"only {text}", remedy)
    return Finding("inotify", "ok", text)


def _descriptors() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FEW_DESCRIPTORS:
        text = f"only {soft} files can be open in a program that is started here"
        limit = min(hard, MANY_DESCRIPTORS) if hard != resource.RLIM_INFINITY else MANY_DESCRIPTORS
        before = f"ulimit -n {limit}"
        if limit < FEW_DESCRIPTORS:
            before = f"raise the hard limit, which is {hard} (nofile in /etc/security/limits.conf)"
        return Finding(
            "files", "warning", text, f"{before}, or LimitNOFILE={MANY_DESCRIPTORS} in a daemon's unit"
        )
    return Finding("files", "ok", f"{soft} files can be open in a program that is started here")


class _Timex(ctypes.Structure):
    _fields_ = (("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
                ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long), ("status", ctypes.c_int),
                ("rest", ctypes.c_byte * 512))  # fmt: skip


def _clock() -> Finding:
    if time.time() < 1_700_000_000:
        text = f"the clock says {time.strftime('%Y-%m-%d')}, which cannot be"
        return Finding("clock", "problem", text, "set it, or run an NTP client")
    asked = _Timex(modes=0)
    try:
        failed = ctypes.CDLL(None).adjtimex(ctypes.byref(asked)) < 0
    except (OSError, AttributeError):
        failed = True
    if not failed and asked.status & _UNSYNCHRONISED:
        text = (
            "the clock is not kept right by anything; p2pd does not need it, but logs will not fit together"
        )
        return Finding("clock", "warning", text, "run an NTP client: timedatectl set-ntp true")
    return Finding("clock", "ok", "p2pd needs no common time, and nothing says that the clock is wrong")


# The daemons


def daemons(chosen: Options) -> Iterator[Finding]:
    """What the chosen daemon says, or all of this user's."""
    if chosen.socket is not None or chosen.port is not None or chosen.name is not None:
        try:
            with chosen.connect() as connection:
                yield from _ask(connection, "")
        except (NoDaemonError, RefusedError, UsageError) as error:
            yield Finding("daemon", "problem", error.message, _remedy(error))
        return
    found = client.live_daemons()
    if not found:
        text = "no daemon of this user's runs"
        remedy = "start one: twistd -n p2ppeer --port 7001 --dir share/ (and once: twistd -n p2pmanager)"
        yield Finding("daemon", "problem", text, remedy)
    elif len(found) > 1:
        names = ", ".join(one.name or one.path for one in found)
        yield Finding("daemon", "ok", f"{len(found)} daemons run: {names}; choose one with --port or --name")
    for one in found:
        name = (one.name or one.path) if len(found) > 1 else ""
        try:
            with client.connect(one.path) as connection:
                yield from _ask(connection, name)
        except (NoDaemonError, RefusedError) as error:
            yield Finding("daemon", "problem", error.message, _remedy(error), name)


def _remedy(error: P2PError) -> str:
    if isinstance(error, RefusedError):
        return "run p2pctl as the user who runs the daemon (sudo -u ...)"
    return "start it, or see with p2pctl doctor alone which ones run"


def _ask(connection: client.Connection, name: str) -> Iterator[Finding]:
    version = str(connection.answer(["version"], PATIENCE).get("version"))
    if version == __version__:
        yield Finding("version", "ok", f"the daemon runs version {version}, as p2pctl does", "", name)
    else:
        text = f"the daemon runs version {version}, p2pctl is {__version__}"
        yield Finding("version", "warning", text, "restart the daemon", name)
    try:
        for event in connection.ask(["doctor"], PATIENCE):
            if event.get("event") == "item":
                check, state, text, remedy = (str(event.get(key, "")) for key in Finding._fields[:4])
                yield Finding(check, state, text, remedy, name)
    except UsageError:
        yield Finding("daemon", "warning", "the daemon is too old to be examined", "restart it", name)
