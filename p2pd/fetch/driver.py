"""What a transfer says to its sources, and the granting to downloaders. Pure."""

from __future__ import annotations

from typing import Protocol

from p2pd.fetch.clients import ClientKey, FileKey
from p2pd.fetch.picker import Run, SourceKey


class Driver(Protocol):
    """What a transfer says, to be carried out at once or soon, never to call back within."""

    def want(self, source: SourceKey, count: int, place: int, once: bool) -> None:
        """Ask the source to keep ``count`` grants open; 0: none more. ``place``: the piece at which
        its share begins, where it is a complete holder and names pieces itself; ``once``: it is to
        give only what nobody was given yet."""

    def get(self, source: SourceKey, grant: int, run: Run, duplicate: bool) -> None:
        """Use the grant for these pieces. ``duplicate``: another source is on them too."""

    def cancel(self, source: SourceKey, grant: int) -> None:
        """Stop; what still comes of this grant does not count."""

    def blame(self, source: SourceKey, piece: int) -> None:
        """The source sent a wrong piece and is about to be removed: not to be used again for now."""

    def trust(self, source: SourceKey) -> None:
        """A source that is used with care sent a right piece: it is used as any other from now on."""


class GrantingDriver(Protocol):
    """What the granting says, to be carried out at once or soon, never to call back within."""

    def grant(
        self, client: ClientKey, file: FileKey, grant: int, limit: int, run: Run | None, *, needed: bool
    ) -> None:
        """A slot of up to ``limit`` bytes; ``run``: only for these pieces; ``needed``: not to be put off."""

    def send(self, client: ClientKey, grant: int) -> None:
        """Send what was named by this grant."""
