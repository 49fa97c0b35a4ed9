"""The thread that knows what lies in the share: it lists, watches, and tells only what is different.

A file is told of when it is at rest: closed after writing, as the events say; without
events, when the kernel says that nobody has it open for writing, or after 2 s without change.
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable

from twisted.logger import Logger

from p2pd.errors import NotFoundError, P2PError
from p2pd.share import inotify, syscalls
from p2pd.share.hashing import StatKey, StatRow
from p2pd.share.listing import (
    QUIET,
    Folder,
    Waiting,
    examine,
    is_young,
    join,
    list_folder,
    name_of,
    stat_file,
)
from p2pd.share.paths import ShareRoot, is_passing
from p2pd.share.telling import Lookup, State, Teller, Update, sentences

QUIET_UNSURE = 30.0
"""The same for a file that somebody was seen to write, where the kernel cannot say whether he still does."""

CLOSINGS = 7
"""So often a file that was closed is looked at again, after 1, 2, 4, ... milliseconds, while it seems to be
written: the kernel tells of a close before it counts the writer out."""

_NEW = inotify.CREATE | inotify.MOVED_TO
_GONE = inotify.DELETE | inotify.MOVED_FROM
_UNKNOWN = StatKey(0, 0, -1, 0, 0)


class Scanner:
    """Owns the thread. :meth:`start`, :meth:`stop` and the commands are for the reactor."""

    _log = Logger()

    def __init__(
        self,
        root: ShareRoot,
        emit: Callable[[Update], None],
        lookup: Lookup,
        *,
        piece_size: int | None = None,
        now: Callable[[], float] = time.monotonic,
        make_inotify: Callable[[], inotify.Inotify] = inotify.Inotify,
    ) -> None:
        """``emit`` is called in the thread and may hold it up; ``now`` gives seconds, from any thread."""
        self._root = root
        self._teller = Teller(emit, lookup, piece_size)
        self._now = now
        self._make_inotify = make_inotify
        self._inotify: inotify.Inotify | None = None
        self._known: dict[bytes, Folder] = {}
        self._by_wd: dict[int, bytes] = {}
        self._waiting: dict[bytes, Waiting] = {}
        self._closing: dict[bytes, tuple[int, float]] = {}  # looks since it was closed; when the next is due
        self._unreadable: dict[bytes, str] = {}
        self._unlisted: set[bytes] = set()  # for want of a descriptor: listed as soon as there is one
        self._skipped: dict[bytes, int] = {}
        self._root_problem: str | None = None
        self._no_events: str | None = None
        self._unwatched: str | None = None
        self._scanned = False
        self._overflowed = False
        self._commands: deque[Callable[[], None]] = deque()
        self._bell = inotify.Bell()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="share-scan", daemon=True)

    def start(self) -> None:
        """Begin to watch and to scan."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Stop the thread and wait for it up to ``seconds``. Blocking."""
        self._stopping.set()
        self._bell.ring()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if not self._thread.is_alive():
            self._bell.close()

    @property
    def stopping(self) -> bool:
        """True after :meth:`stop`."""
        return self._stopping.is_set()

    def rescan(self) -> None:
        """Look at everything again; what is as it was is not told."""
        self._command(lambda: self._walk(b""))

    def check(self, rel: bytes) -> None:
        """Look at one file again, and tell of it even where it is as it was."""
        self._command(lambda: self._look(rel, again=True))

    def trust(self, rel: bytes, key: StatKey) -> None:
        """A file that the daemon itself put there is at rest, although it may have it open still."""
        self._command(lambda: self._trust(rel, key))

    def settle(self) -> None:
        """Look at the files that are not at rest, and at the share folder itself."""
        self._command(self._settle)

    def is_waiting(self, rel: bytes) -> bool:
        """True for a file that is known not to be at rest; may be called from any thread."""
        return rel in self._waiting

    def _command(self, work: Callable[[], None]) -> None:
        self._commands.append(work)
        self._bell.ring()

    def _run(self) -> None:
        try:
            self._begin_events()
            self._walk(b"")
            self._scanned = True
            self._teller.flush_all(self._state())
            poll = select.poll()
            poll.register(self._bell.fd, select.POLLIN)
            if self._inotify is not None:
                poll.register(self._inotify.fd, select.POLLIN)
            while not self._stopping.is_set():
                poll.poll(self._until_due())
                self._round()
        except Exception:  # a fault of ours must not pass in silence: the share would stand still
            self._log.failure("the share is not watched any more")
            self._root_problem = "The share is not watched any more; restart the peer (see the log)."
            self._teller.flush_all(self._state())
        finally:
            if self._inotify is not None:
                self._inotify.close()

    def _until_due(self) -> float | None:
        """Milliseconds until a file that was closed is to be looked at again."""
        if not self._closing:
            return None
        return max(1000 * (min(due for _, due in self._closing.values()) - time.monotonic()), 0.0)

    def _begin_events(self) -> None:
        kind = syscalls.remote_file_system(self._root.fd)
        if kind is not None:
            self._no_events = f"the share is on {kind}, which does not tell of changes made elsewhere"
        try:
            self._inotify = self._make_inotify()
        except OSError as error:
            self._no_events = f"this system gives no events ({error.strerror})"

    def _round(self) -> None:
        self._bell.hear()
        while self._commands and not self._stopping.is_set():
            self._commands.popleft()()
        for rel, (looks, due) in list(self._closing.items()):
            if rel in self._waiting:
                if time.monotonic() < due:
                    continue
                self._look(rel, closing=looks + 1)
            else:
                del self._closing[rel]  # it is gone, or something else
        for event in self._inotify.read() if self._inotify else ():
            if self._stopping.is_set():
                return
            self._handle(event)
            self._teller.flush()
        if self._overflowed:
            self._overflowed = False
            self._walk(b"")
        self._teller.flush_all(self._state())

    def _state(self) -> State:
        reason = self._no_events or self._unwatched
        problems = sentences(self._root_problem, reason, sum(self._skipped.values()), self._unreadable)
        waiting = bool(self._waiting or self._unlisted)
        return State(self._scanned, bool(reason), waiting, tuple(problems))

    # -- folders

    def _walk(self, top: bytes) -> None:
        """List ``top`` and all below it, watch it, and note what differs from what is known."""
        if top == b"":
            self._root_problem = self._root.problem()
            self._unwatched = None
        stack = [top]
        while stack and not self._stopping.is_set():
            folder = stack.pop()
            stack.extend(join(folder, leaf) for leaf in sorted(self._list(folder), reverse=True))
            self._teller.flush()

    def _list(self, rel: bytes) -> set[bytes]:
        """Bring what is known of one folder up to date; returns its sub-folders."""
        folder = self._known.get(rel) or Folder()
        try:
            listing = list_folder(self._root, rel, lambda fd: self._watch(rel, folder, fd))
        except P2PError as error:
            if is_passing(error):
                self._unlisted.add(rel)  # what is known of it stays
                return set()
            self._forget(rel)
            if not isinstance(error, NotFoundError):
                self._unreadable[rel] = str(error)
            return set()
        self._unreadable.pop(rel, None)
        self._unlisted.discard(rel)
        if listing.error:
            self._unreadable[rel] = listing.error
        self._known[rel] = folder
        before_files, before_folders = folder.files, folder.folders
        folder.files, folder.folders = {}, listing.folders
        self._skipped.pop(rel, None)
        if listing.skipped:
            self._skipped[rel] = listing.skipped
        now = time.time()
        for name, path, leaf, row in listing.files:
            if before_files.pop(leaf, None) == row:
                folder.files[leaf] = row
            elif path in self._waiting or is_young(row, now):
                self._young(path, row)
            else:
                folder.files[leaf] = row
                self._teller.found(path, name, row)
        for leaf in before_files:
            self._drop(join(rel, leaf))
        for leaf in before_folders - listing.folders:
            self._forget(join(rel, leaf))
        return listing.folders

    def _watch(self, rel: bytes, folder: Folder, fd: int) -> None:
        if self._inotify is None:
            return
        try:
            wd = self._inotify.add(fd)
        except OSError as error:
            self._unwatched = (
                f"a folder cannot be watched ({error.strerror}; see fs.inotify.max_user_watches)"
            )
            return
        if folder.wd not in (None, wd) and self._by_wd.get(folder.wd or 0) == rel:
            self._by_wd.pop(folder.wd or 0)  # another folder has this name now
        folder.wd = wd
        self._by_wd[wd] = rel

    def _forget(self, top: bytes) -> None:
        """A folder is gone, and all in it."""
        stack = [top]
        while stack:
            rel = stack.pop()
            self._unreadable.pop(rel, None)
            self._unlisted.discard(rel)
            self._skipped.pop(rel, None)
            folder = self._known.pop(rel, None)
            if folder is None:
                continue
            if folder.wd is not None and self._by_wd.get(folder.wd) == rel and self._inotify:
                del self._by_wd[folder.wd]
                self._inotify.remove(folder.wd)
            for leaf in folder.files:
                self._teller.gone(join(rel, leaf))
            stack.extend(join(rel, leaf) for leaf in folder.folders)
        inside = top + b"/" if top else b""
        for rel in [rel for rel in self._waiting if rel.startswith(inside)]:
            del self._waiting[rel]

    # -- files

    def _young(self, rel: bytes, row: StatRow) -> None:
        """A listing shows a file that was not told of as it is now, and that may be in the making."""
        if rel in self._waiting:
            return
        try:
            key, writer = examine(self._root, rel)
        except NotFoundError:
            return
        except P2PError:
            key, writer = StatKey(*row), None
        if writer is False:
            self._offer(rel, key)
        else:
            self._hold(rel, key, evented=False)

    def _trust(self, rel: bytes, key: StatKey) -> None:
        result = stat_file(self._root, rel)
        if rel.rpartition(b"/")[0] in self._known and result is not None and StatKey.of(result) == key:
            self._offer(rel, key)
        else:
            self._look(rel)

    def _look(self, rel: bytes, again: bool = False, closing: int | None = None) -> None:
        """Tell of the file if it is at rest, or that it is gone; ``closing``: see :data:`CLOSINGS`."""
        self._closing.pop(rel, None)
        folder, _, leaf = rel.rpartition(b"/")
        if folder not in self._known:
            if self._no_events or self._unwatched:
                self._walk(b"")  # no event will tell of the folder
            elif stat_file(self._root, rel) is None:
                self._teller.gone(rel)
            return
        if again:
            self._known[folder].files.pop(leaf, None)
        try:
            key, writer = examine(self._root, rel)
        except NotFoundError:
            self._drop(rel)
        except P2PError as error:
            self._unreadable[rel] = str(error)
            self._hold(rel, _UNKNOWN, evented=False)
        else:
            if not writer:
                self._offer(rel, key)
                return
            self._hold(rel, key, evented=True)
            if closing is not None and closing < CLOSINGS:
                # Not by the clock that is passed in: it is the kernel that is waited for.
                self._closing[rel] = (closing, time.monotonic() + 0.001 * 2**closing)

    def _settle(self) -> None:
        self._root_problem = self._root.problem()
        for rel in list(self._unlisted):
            self._unlisted.discard(rel)
            self._walk(rel)
        now = self._now()
        for rel, waiting in list(self._waiting.items()):
            if now - waiting.since < QUIET:
                continue
            try:
                key, writer = examine(self._root, rel)
            except NotFoundError:
                self._drop(rel)
            except P2PError:
                waiting.since = now
            else:
                if key != waiting.key or writer:
                    waiting.key, waiting.since = key, now
                elif writer is False or not waiting.evented or now - waiting.since >= QUIET_UNSURE:
                    self._offer(rel, key)

    def _offer(self, rel: bytes, key: StatKey) -> None:
        self._waiting.pop(rel, None)
        self._unreadable.pop(rel, None)
        folder, _, leaf = rel.rpartition(b"/")
        files = self._known[folder].files
        name = name_of(rel)
        if files.get(leaf) != key.row and name is not None:
            files[leaf] = key.row
            self._teller.found(rel, name, key.row)

    def _hold(self, rel: bytes, key: StatKey, evented: bool) -> None:
        if rel not in self._waiting:
            folder, _, leaf = rel.rpartition(b"/")
            self._known[folder].files.pop(leaf, None)
            self._teller.gone(rel, written=True)
        self._waiting[rel] = Waiting(key, self._now(), evented)

    def _drop(self, rel: bytes) -> None:
        self._waiting.pop(rel, None)
        self._unreadable.pop(rel, None)
        folder, _, leaf = rel.rpartition(b"/")
        if folder in self._known:
            self._known[folder].files.pop(leaf, None)
        self._teller.gone(rel)

    # -- events

    def _handle(self, event: inotify.Event) -> None:
        mask, leaf = event.mask, event.name
        if mask & inotify.Q_OVERFLOW:
            self._overflowed = True
            return
        folder = self._by_wd.get(event.wd)
        if folder is None:
            return
        if mask & inotify.IGNORED:
            del self._by_wd[event.wd]
        elif mask & (inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.UNMOUNT):
            if folder == b"" or mask & inotify.UNMOUNT:
                self._walk(folder)
        elif leaf and not leaf.startswith(b"."):
            rel = join(folder, leaf)
            if mask & inotify.ISDIR:
                self._folder_event(folder, leaf, mask)
            elif name_of(rel) is None:
                self._list(folder)  # counts it
            else:
                self._file_event(rel, mask)

    def _folder_event(self, folder: bytes, leaf: bytes, mask: int) -> None:
        rel = join(folder, leaf)
        if mask & (_NEW | _GONE):
            self._known[folder].folders.discard(leaf)
            self._forget(rel)
        if mask & _NEW or rel in self._unreadable:
            if name_of(rel) is None:
                self._list(folder)  # counts it
                return
            self._known[folder].folders.add(leaf)
            self._walk(rel)

    def _file_event(self, rel: bytes, mask: int) -> None:
        if mask & _GONE:
            self._drop(rel)
        elif mask & (inotify.CREATE | inotify.MODIFY):
            self._written(rel, created=bool(mask & inotify.CREATE))
        elif mask & inotify.CLOSE_WRITE:
            self._look(rel, closing=0)
        elif mask & inotify.MOVED_TO or rel not in self._waiting:
            self._look(rel)

    def _written(self, rel: bytes, created: bool) -> None:
        waiting = self._waiting.get(rel)
        if waiting is not None:
            waiting.since, waiting.evented = self._now(), True
            return
        result = stat_file(self._root, rel)
        if result is None:
            return
        key = StatKey.of(result)
        folder, _, leaf = rel.rpartition(b"/")
        if not created or result.st_nlink == 1:
            if not (created and self._known[folder].files.get(leaf) == key.row):  # listed before the event
                self._hold(rel, key, evented=True)
        else:  # a hard link: nothing will be closed
            self._look(rel)
