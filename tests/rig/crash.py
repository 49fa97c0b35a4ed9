"""A disk that loses power: records what the storage code does, and makes what may be left of it.

Stands in place of ``os`` in the modules that touch the share. Everything is really done, in a real
folder, and noted. Afterwards :meth:`CrashDisk.left` makes a state in which the disk may be found after
the power went at some point: what was synced is there; of the rest any part of the data, each write
torn where it likes, and of each folder's changes a beginning, in their order. A rename is done or not.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from p2pd.share import partfile, partial, paths, syscalls

Node = int
"""An inode number: the recorder keeps each one open, so that none is given away twice."""
SECTOR = 512


@attrs.frozen
class Write:
    """Data into a file; of a torn one only some sectors."""

    node: Node
    offset: int
    data: bytes


@attrs.frozen
class Resize:
    """Cut off, or made longer by a hole."""

    node: Node
    size: int


@attrs.frozen
class Link:
    """``name`` in a folder leads to ``node`` from now on (None: to nothing); ``old``: where it was before."""

    folder: Node
    name: str
    node: Node | None
    old: tuple[Node, str] | None = None

    @property
    def folders(self) -> set[Node]:
        return {self.folder, self.old[0]} if self.old else {self.folder}


@attrs.frozen
class Sync:
    """fsync of a file or folder."""

    node: Node


Op = Write | Resize | Link | Sync
Tree = dict[Node, dict[str, Node]]


def _name(path: str | bytes) -> str:
    return os.fsdecode(path)


class CrashDisk:
    """The module ``os`` as the storage code sees it, on ``folder``, which is a real one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ops: list[Op] = []
        self._kept: dict[Node, int] = {}
        self.root = self._keep(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        self._before: Tree = {}
        self._contents: dict[Node, bytes] = {}
        self._look(self.root)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def wire(self, patch: Callable[[object, str, object], None]) -> None:
        """Take the place of ``os``; ``patch`` is monkeypatch.setattr."""
        for module in (partial, partfile, paths):
            patch(module, "os", self)
        real = syscalls.rename_noreplace

        def rename_noreplace(src_dirfd: int, src: bytes, dst_dirfd: int, dst: bytes) -> None:
            node = self._at(src_dirfd, src)
            real(src_dirfd, src, dst_dirfd, dst)
            self._renamed(node, src_dirfd, src, dst_dirfd, dst)

        patch(syscalls, "rename_noreplace", rename_noreplace)

    def let_go(self) -> None:
        """Of every file that was ever there."""
        for fd in self._kept.values():
            os.close(fd)

    # What is recorded

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        new = bool(flags & os.O_CREAT) and dir_fd is not None and not self._exists(dir_fd, path)
        fd = os.open(path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_CREAT and dir_fd is not None:
            node = self._keep(os.dup(fd))
            if new:
                self.ops.append(Link(self._node(dir_fd), _name(path), node))
            if flags & os.O_TRUNC:
                self.ops.append(Resize(node, 0))
        return fd

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int) -> None:
        os.mkdir(path, mode, dir_fd=dir_fd)
        node = self._keep(os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd))
        self.ops.append(Link(self._node(dir_fd), _name(path), node))

    def write(self, fd: int, data: Any) -> int:
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        count = os.write(fd, data)
        self.ops.append(Write(self._node(fd), offset, bytes(data[:count])))
        return count

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        count = os.pwrite(fd, data, offset)
        self.ops.append(Write(self._node(fd), offset, bytes(data[:count])))
        return count

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)
        self.ops.append(Resize(self._node(fd), size))

    def fsync(self, fd: int) -> None:
        os.fsync(fd)
        self.ops.append(Sync(self._node(fd)))

    def rename(self, src: Any, dst: Any, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        node = self._at(src_dir_fd, src)
        os.rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self._renamed(node, src_dir_fd, src, dst_dir_fd, dst)

    def unlink(self, path: Any, *, dir_fd: int) -> None:
        os.unlink(path, dir_fd=dir_fd)
        self.ops.append(Link(self._node(dir_fd), _name(path), None))

    def _renamed(self, node: Node, src_dir_fd: int, src: Any, dst_dir_fd: int, dst: Any) -> None:
        old = (self._node(src_dir_fd), _name(src))
        self.ops.append(Link(self._node(dst_dir_fd), _name(dst), node, old))

    def _node(self, fd: int) -> Node:
        return os.fstat(fd).st_ino

    def _at(self, dir_fd: int, path: Any) -> Node:
        return os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_ino

    def _exists(self, dir_fd: int, path: Any) -> bool:
        try:
            self._at(dir_fd, path)
        except FileNotFoundError:
            return False
        return True

    def _keep(self, fd: int) -> Node:
        node = self._node(fd)
        if node in self._kept:
            os.close(fd)
        else:
            self._kept[node] = fd
        return node

    def _look(self, node: Node) -> None:
        """What is there before anything is done is on the disk."""
        fd = self._kept[node]
        self._before[node] = {}
        for name in os.listdir(fd):
            inner = self._keep(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd))
            self._before[node][name] = inner
            if os.path.isdir(f"/proc/self/fd/{self._kept[inner]}"):
                self._look(inner)
            else:
                self._contents[inner] = os.pread(self._kept[inner], 2**24, 0)

    # What is left

    def left(self, until: int, chance: random.Random, share: float, made: Path) -> None:
        """Make in ``made`` what may be found when the power goes after ``until`` operations.

        Of what was not synced, each change is there with the probability ``share``.
        """
        done = self.ops[:until]
        durable = self._durable(done)
        tree = {node: dict(names) for node, names in self._before.items()}
        contents = {node: bytearray(data) for node, data in self._contents.items()}
        stopped: set[Node] = set()
        for number, op in enumerate(done):
            if isinstance(op, Link):
                if number in durable or (not op.folders & stopped and chance.random() < share):
                    names = tree.setdefault(op.folder, {})
                    if op.old:
                        tree[op.old[0]].pop(op.old[1], None)
                    if op.node is None:
                        names.pop(op.name, None)
                    else:
                        names[op.name] = op.node
                else:
                    stopped |= op.folders
            elif not isinstance(op, Sync) and (number in durable or chance.random() < share):
                self._apply(op, contents.setdefault(op.node, bytearray()), number in durable, chance)
        self._make(self.root, tree, contents, made)

    @staticmethod
    def _durable(done: list[Op]) -> set[int]:
        """Which operations a later sync covers, with what they follow on in their folders."""
        synced: set[Node] = set()
        durable = set()
        for number in range(len(done) - 1, -1, -1):
            op = done[number]
            if isinstance(op, Sync):
                synced.add(op.node)
            elif isinstance(op, Link):
                if op.folders & synced:
                    durable.add(number)
                    synced |= op.folders
            elif op.node in synced:
                durable.add(number)
        return durable

    @staticmethod
    def _apply(op: Write | Resize, content: bytearray, whole: bool, chance: random.Random) -> None:
        if isinstance(op, Resize):
            del content[op.size :]
            content.extend(bytes(op.size - len(content)))
            return
        torn = not whole and chance.random() < 0.5
        content.extend(bytes(max(0, op.offset + len(op.data) - len(content))))
        for at in range(0, len(op.data), SECTOR):
            if not torn or chance.random() < 0.5:
                part = op.data[at : at + SECTOR]
                content[op.offset + at : op.offset + at + len(part)] = part

    def _make(self, node: Node, tree: Tree, contents: dict[Node, bytearray], made: Path) -> None:
        made.mkdir()
        for name, inner in tree.get(node, {}).items():
            if inner in tree or os.path.isdir(f"/proc/self/fd/{self._kept[inner]}"):
                self._make(inner, tree, contents, made / name)
            else:
                (made / name).write_bytes(contents.get(inner, b""))
