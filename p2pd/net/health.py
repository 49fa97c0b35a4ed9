"""What `doctor` looks at in both daemons. All of it is quick; nothing is changed."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable

from p2pd.status import Check

BESIDES = 100
"""Descriptors that a daemon needs besides its connections: files, folders, sockets, the database."""
LITTLE = 200 * 1000**2
"""Bytes free below which a disk is called nearly full,"""
NEARLY_NONE = 10 * 1000**2
"""and below which nothing more can be hoped for."""


def descriptors(maximum: int) -> Check:
    """Are there enough for ``maximum`` connections, each with a file?"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = maximum + BESIDES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Check("descriptors", "ok", f"{soft} may be open, about {needed} are needed at the most")
    text = f"only {soft} descriptors may be open, but --max {maximum} may need {needed}"
    before = f"ulimit -n {needed} before the start"
    if hard != resource.RLIM_INFINITY and hard < needed:
        before = f"raise the hard limit, which is {hard} (nofile in /etc/security/limits.conf)"
    remedy = f"{before}, LimitNOFILE={needed} in the unit, or a lower --max"
    return Check("descriptors", "warning", text, remedy)


def room(check: str, path: str) -> Check:
    """Is there room on the disk of ``path``? Blocks as long as that disk does."""
    try:
        info = os.statvfs(path)
    except OSError as error:
        return Check(check, "problem", f"{path}: {error.strerror}", "is the disk mounted?")
    free = info.f_bavail * info.f_frsize
    said = f"{free // 1000**2} MB are free on the disk of {path}"
    if info.f_files and not info.f_favail:
        return Check(
            check, "problem", f"no file can be made on the disk of {path}: no inode is free", "remove files"
        )
    if free < LITTLE:
        state = "problem" if free < NEARLY_NONE else "warning"
        return Check(check, state, f"only {said}", "make room there, or move it")  # type: ignore[arg-type]
    return Check(check, "ok", said)


def others(problems: Iterable[str]) -> list[Check]:
    """What the daemon itself complains of in `status`, where no check says it better."""
    found = [Check("problems", "warning", each, "see the console or the log") for each in problems if each]
    return found or [Check("problems", "ok", "the daemon complains of nothing")]
