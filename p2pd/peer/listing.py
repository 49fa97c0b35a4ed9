"""Getting a piece list: from one holder, from a further one where that hangs; the first to come counts."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from p2pd.errors import ChangedError, NoSourcesError, ProtocolError
from p2pd.fetch.transfer import STALL
from p2pd.model import FileId, Manifest, PeerId
from p2pd.peer.choosing import Choosing
from p2pd.peer.fetching import Fetching


@attrs.define(eq=False)
class _Asked:
    """``came`` bytes so far, the last ones when ``heard``."""

    source: Fetching
    file_id: FileId
    heard: float
    came: int = 0


class ListAsking:
    """Made once per piece list. ``note`` is told what is asked and received, ``untrusted`` who lied,
    ``gone`` who took the offer back.
    """  # fmt: skip

    def __init__(
        self,
        choosing: Choosing,
        now: Callable[[], float],
        *,
        note: Callable[[str, Fetching], None],
        untrusted: Callable[[Fetching], object],
        gone: Callable[[Fetching], None],
    ) -> None:
        self._choosing = choosing
        self._now = now
        self._note = note
        self._untrusted = untrusted
        self._gone = gone
        self._tried: set[PeerId] = set()
        self._asked: list[_Asked] = []
        self._first: Deferred[Manifest | None] = Deferred()

    def manifest(self) -> Deferred[Manifest | None]:
        """The first one that comes; None where nobody is left who could send it."""
        self._ask()
        return self._first

    def tick(self, now: float) -> None:
        """A holder that sends nothing for :data:`STALL` s gets company, as with pieces."""
        for asked in self._asked:
            came = asked.source.manifest_bytes(asked.file_id)
            if came != asked.came:
                asked.came, asked.heard = came, now
        if self._asked and all(now - asked.heard > STALL for asked in self._asked):
            self._ask()

    def _ask(self) -> None:
        found = self._choosing.holder(self._tried)
        if found is not None and not self._first.called:
            peer, source, offer = found
            self._tried.add(peer)
            asked = _Asked(source, offer.file_id, self._now())
            self._asked.append(asked)
            self._note("asked for", source)
            source.manifest(offer).addCallbacks(
                self._came, self._failed, callbackArgs=(asked,), errbackArgs=(asked,)
            )
        elif not self._asked and not self._first.called:
            self._first.callback(None)

    def _came(self, manifest: Manifest, asked: _Asked) -> None:
        self._asked.remove(asked)
        if not self._first.called:
            self._note("received", asked.source)
            self._first.callback(manifest)

    def _failed(self, failure: Failure, asked: _Asked) -> None:
        failure.trap(ChangedError, NoSourcesError, ProtocolError)
        self._asked.remove(asked)
        if failure.check(ProtocolError):
            self._untrusted(asked.source)
        elif failure.check(ChangedError):
            self._gone(asked.source)
        self._ask()
