"""Runs a command under what a unit file asks for, as far as that can be had without systemd as process 1.

    unshare --mount python sandbox.py UNIT WRITABLE... -- COMMAND...

Applied: SystemCallFilter=, SystemCallArchitectures=, RestrictAddressFamilies=, RestrictNamespaces= and
MemoryDenyWriteExecute=, by one seccomp filter, under which what systemd answers with an error kills the
process, so that a test cannot miss it; ProtectSystem=strict with WRITABLE in place of the folders that the
unit names; ProtectProc= and ProcSubset=; PrivateUsers=, within which root's files are an ordinary user's, as
whom the command runs; CapabilityBoundingSet=, NoNewPrivileges= and UMask=. Not applied: what hides folders
that a test needs (PrivateTmp=, ProtectHome=, PrivateDevices=).
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
MS_BIND, MS_REC = 4096, 16384
MOUNT_SETATTR, AT_RECURSIVE, ATTR_RDONLY = 442, 0x8000, 1
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, LAST_CAPABILITY = 24, 38, 40
KILL, ALLOW, ENOSYS = 0x80000000, 0x7FFF0000, 0x00050000 + 38
MASKED_EQUAL, EQUAL = 7, 4
WRITE, EXECUTE = 2, 4
CLONE_NEWUSER, USER = 0x10000000, 1000
NAMESPACES = 0x7E020080  # all CLONE_NEW flags


class Compare(ctypes.Structure):
    """libseccomp's struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def read_unit(path: Path) -> dict[str, list[str]]:
    """The settings of a unit file, all values of each in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            found.setdefault(name.strip(), []).append(value.strip())
    return found


def system_calls(filters: list[str]) -> set[str]:
    """The names that an allow list with later deny lines (``~``) leaves, by systemd's own sets."""
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True
    ).stdout
    sets: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("@"):
            members = sets.setdefault(line.strip(), [])
        elif re.fullmatch(r" {4}[@a-z0-9_-]+", line):
            members.append(line.strip())

    def expand(names: list[str]) -> set[str]:
        return {
            each for name in names for each in (expand(sets[name]) if name.startswith("@") else {name})
        }  # fmt: skip

    allowed: set[str] = set()
    for value in filters:
        if value.startswith("~"):
            allowed -= expand(value[1:].split())
        else:
            allowed |= expand(value.split())
    return allowed


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno() if result == -1 else -result
        raise SystemExit(f"sandbox: {what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    names = [None if each is None else each.encode() for each in (source, target, kind)]
    check(LIBC.mount(*names, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def read_only(path: str, on: bool, recursive: bool) -> None:
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY if on else 0, 0 if on else ATTR_RDONLY, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    check(LIBC.syscall(MOUNT_SETATTR, -1, path.encode(), flags, attributes, size), f"read-only {path}")


def close_file_system(unit: dict[str, list[str]], writable: list[str]) -> None:
    if unit["ProtectSystem"] == ["strict"]:
        for path in writable:
            mount(path, path, None, MS_BIND | MS_REC)
        read_only("/", True, True)
        for path in writable:
            read_only(path, False, False)
    options = [f"subset={each}" for each in unit["ProcSubset"]]
    options += [f"hidepid={each}" for each in unit["ProtectProc"]]
    mount("proc", "/proc", "proc", 0, ",".join(options))


def leave_root(unit: dict[str, list[str]]) -> None:
    if unit["PrivateUsers"] == ["yes"]:
        check(LIBC.unshare(CLONE_NEWUSER), "user namespace")
        Path("/proc/self/setgroups").write_text("deny")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/self/{name}").write_text(f"{USER} 0 1")


def drop_privileges(unit: dict[str, list[str]]) -> None:
    os.umask(int(unit["UMask"][-1], 8))
    if unit["CapabilityBoundingSet"] == [""]:
        for number in range(LAST_CAPABILITY + 1):
            check(LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), f"drop capability {number}")
    if unit["NoNewPrivileges"] == ["yes"]:
        check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")


def filter_system_calls(unit: dict[str, list[str]]) -> None:
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(KILL))

    def rule(action: int, name: str, *compare: Compare) -> None:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # else there is none of that name here
            array = (Compare * len(compare))(*compare)
            check(
                seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(compare), array),
                name,
            )

    names = system_calls(unit["SystemCallFilter"])
    if unit["RestrictAddressFamilies"]:
        names.remove("socket")
        for family in unit["RestrictAddressFamilies"][-1].split():
            rule(ALLOW, "socket", Compare(0, EQUAL, int(getattr(socket, family))))
    if unit["MemoryDenyWriteExecute"] == ["yes"]:
        names -= {"mmap", "mprotect", "pkey_mprotect"}
        for bits in (0, WRITE, EXECUTE):
            rule(ALLOW, "mmap", Compare(2, MASKED_EQUAL, WRITE | EXECUTE, bits))
        for name in ("mprotect", "pkey_mprotect"):
            rule(ALLOW, name, Compare(2, MASKED_EQUAL, EXECUTE, 0))
    if unit["RestrictNamespaces"] == ["yes"]:
        names -= {"unshare", "setns", "clone", "clone3"}
        rule(ALLOW, "clone", Compare(0, MASKED_EQUAL, NAMESPACES, 0))
        rule(ENOSYS, "clone3")  # as systemd does: its flags cannot be looked at, and the C library has clone
    for name in sorted(names):
        rule(ALLOW, name)
    check(seccomp.seccomp_load(context), "filter")


def main(words: list[str]) -> None:
    """Close everything, then become the command."""
    split = words.index("--")
    unit, command = read_unit(Path(words[0])), words[split + 1 :]
    close_file_system(unit, words[1:split])
    leave_root(unit)
    drop_privileges(unit)
    filter_system_calls(unit)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
