"""Who has it, and is it here already? Everything about a `req` up to the first byte.

Connects :class:`~p2pd.peer.asking.Asking` (whom to ask), :class:`~p2pd.peer.offers.Offers`
(what they said), :class:`~p2pd.peer.choosing.Choosing` (which content) and
:class:`~p2pd.peer.listing.ListAsking` (its piece list), and tells a :class:`Seeker`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from twisted.logger import Logger

from p2pd.errors import ConflictError, NotFoundError, P2PError, RefusedError
from p2pd.fetch.neighbours import Neighbours
from p2pd.model import Manifest, Offer, PeerInfo, check_dimensions
from p2pd.peer.asking import Asking
from p2pd.peer.bans import Bans
from p2pd.peer.choosing import Choosing, Verdict
from p2pd.peer.fetching import Fetching
from p2pd.peer.here import pinned_content, same_content
from p2pd.peer.household import Household
from p2pd.peer.listing import ListAsking
from p2pd.peer.offers import Offers
from p2pd.pieces import Bitfield
from p2pd.share.disk import check_target
from p2pd.share.index import Entry
from p2pd.share.partial import Job
from p2pd.text import escape

log = Logger("p2pd.peer")


class Seeker(Protocol):
    """Who seeks: the download."""

    @property
    def over(self) -> bool:
        """True once it has ended."""

    def usable(self, source: Fetching, offer: Offer, have: Bitfield | None) -> None:
        """An offer of the content that is wanted."""

    def here_already(self, manifest: Manifest) -> None:
        """Nothing need be fetched."""

    def sought_in_vain(self, error: P2PError) -> None:
        """NotFoundError, RefusedError, ConflictError, VerifyError: it ends."""

    def nobody_yet(self, error: P2PError) -> None:
        """Nobody has it; it was asked for in an earlier run, so it waits."""

    def source_left(self, source: Fetching) -> None:
        """A conversation is over."""

    def useless(self, now: float) -> list[Fetching]:
        """Whom it fetches from, and who had nothing new for long."""

    def offers_closed(self) -> None:
        """What is complete may get its name."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it; a fault of it ends the transfer."""


class Seeking:
    """See the module. ``settled``: the content was chosen in an earlier run.

    ``patient``: where nobody has it, wait for somebody.
    """

    def __init__(
        self,
        seeker: Seeker,
        house: Household,
        job: Job,
        *,
        settled: bool,
        patient: bool,
        note: Callable[[str, Fetching], None],
    ) -> None:
        self._patient = patient
        self._comparing = False
        self._nobody = False
        self._seeker = seeker
        self._house = house
        self._job = job
        self._settled = settled
        self._note = note
        self._offers = Offers(house.now())
        self.bans = Bans(house.ban_seconds)
        self._choosing = Choosing(self._offers, self.bans, job.file_id, settled=settled)
        self._asking = Asking(
            job.name, house.contacts, self._offers,
            allowed=self._allowed, offered=self._offered, left=self._left, answered=self.check,
            useless=seeker.useless, found=lambda: self._choosing.holder(set()) is not None,
            neighbours=Neighbours(f"{house.label} {job.transfer}"),
        )  # fmt: skip
        self._lists: ListAsking | None = None
        self._local: Entry | None = None
        self.closed = settled
        """True once the offers are closed."""

    def _allowed(self, info: PeerInfo) -> bool:
        named = not self._job.sources or info.name in self._job.sources
        named = named and self._house.may_fetch_from(info)
        return named and not self.bans.stands(info.id, self._house.now())

    async def look_here(self) -> bool:
        """Before anybody is asked: True where a file of that name is here that may not be replaced.

        ConflictError where something else has the name, or stands in the way to it.
        """
        job, root = self._job, self._house.root
        self._local = await self._house.index.find(job.target)
        if self._local is None:
            await self._house.in_thread(lambda: check_target(root, job.target, job.replace))
        elif self._choosing.pinned:
            await self._settle(pinned_content(self._house, job, self._local))
        return self._local is not None and not job.replace

    def tick(self, now: float, *, asking: bool) -> None:
        """Look at what is due; ``asking`` False: ask nobody now."""
        self._offers.roster_known = self._house.roster_known()
        for info in self.bans.ended(now):
            log.info(
                "{name} may be used for {file} again, with care",
                name=escape(info.name), file=escape(self._job.name),
            )  # fmt: skip
        if asking:
            self._asking.sweep(now)
        if self._lists is not None:
            self._lists.tick(now)
        self.check()

    def check(self) -> None:
        """Have all answered?"""
        if not self.closed and not self._seeker.over and self._offers.closed(self._house.now()):
            self.closed = True
            if self._choosing.contested:
                # Told only now: who is to choose wants to see all contents and all their holders.
                text = f"{escape(self._job.name)} stands for different contents: choose one with --id"
                self._seeker.sought_in_vain(ConflictError(text, variants=self._choosing.variants()))
            else:
                self._seeker.spawn(self._conclude())
                self._seeker.offers_closed()

    def _offered(self, source: Fetching, offer: Offer, have: Bitfield | None) -> None:
        if self._seeker.over:
            return
        if self._nobody:
            self._nobody = self.closed = False
            self._offers.reopen(self._house.now())
        if not self._credible(source, offer):
            return
        if have is not None:
            self._note("received", source)  # the list of those that he has
        verdict = self._choosing.judge(source, offer, have, self._house.now())
        if verdict is Verdict.ASK_AGAIN:
            chosen = self._choosing.chosen()
            assert chosen is not None
            self._asking.ask_again(source, chosen[1])
        elif verdict is Verdict.USE and self._local is None:
            # What is here already is compared first, when the offers are closed.
            self._seeker.usable(source, offer, have)
        self.check()

    def _credible(self, source: Fetching, offer: Offer) -> bool:
        """False where the offer cannot be true: who made it is not used, then."""
        try:
            check_dimensions(offer.size, offer.piece_size)
            self._choosing.check(offer)
        except ValueError as error:
            log.warn("{name}: bad offer: {why}", name=source.link.name, why=escape(str(error)))
            self.distrust(source)
            return False
        return True

    async def _conclude(self) -> None:
        """Everybody has answered: is it here already, or nowhere?"""
        if self._local is not None:
            await self._settle(same_content(self._house, self._job, self._choosing, self._local))
            if not self._seeker.over:
                # Another content is here, and is to be replaced.
                self._local = None
                for offering in self.offering():
                    self._seeker.usable(*offering)
        elif self._lists is None and not self.bans.any_ever and not self._choosing.made:
            name, groups = escape(self._job.name), self._offers.by_id()
            if not groups:
                text = f"nobody has {name}{self._offers.unheard}"
                error = (
                    RefusedError(self._offers.refusals[0]) if self._offers.refusals else NotFoundError(text)
                )
                if self._patient:
                    self._nobody = True
                    self._seeker.nobody_yet(error)
                else:
                    self._seeker.sought_in_vain(error)
            elif self._choosing.pinned and self._choosing.wanted not in groups:
                text = f"nobody has {name} with that id"
                self._seeker.sought_in_vain(NotFoundError(text, variants=self._choosing.variants()))

    async def _settle(self, looking: Coroutine[Any, Any, Manifest | None]) -> None:
        self._comparing = True
        try:
            manifest = await looking
        except P2PError as error:
            if not (isinstance(error, ConflictError) and self._job.replace):
                self._seeker.sought_in_vain(error)
        else:
            if manifest is not None and not self._seeker.over:
                self._seeker.here_already(manifest)
        finally:
            self._comparing = False

    # The piece list

    @property
    def listing(self) -> bool:
        """True while a piece list is being fetched."""
        return self._lists is not None

    async def manifest(self) -> Manifest | None:
        """The manifest of what is offered; None where nobody gives it."""
        self._lists = ListAsking(
            self._choosing, self._house.now, note=self._note, untrusted=self.distrust, gone=self.forget
        )  # fmt: skip
        try:
            return await self._lists.manifest()
        finally:
            self._lists = None

    def choose(self, manifest: Manifest) -> list[tuple[Fetching, Offer, Bitfield | None]]:
        """This content it is; gives who offers it now."""
        self._choosing.choose(manifest)
        offering = list(self._choosing.offering.values())
        return [each for each in offering if self._credible(each[0], each[1])]

    def offering(self) -> list[tuple[Fetching, Offer, Bitfield | None]]:
        """Who offers something now that may be fetched."""
        return list(self._choosing.offering.values()) if self._local is None else []

    # Sources

    def distrust(self, source: Fetching) -> float:
        """It lied: nothing of it counts any more. Gives the seconds for which it is not asked."""
        seconds = self._choosing.distrust(source, self._house.now())
        self._asking.withdraw(source)
        self._seeker.source_left(source)
        return seconds

    def forget(self, source: Fetching) -> None:
        """Its offer does not stand any more; its `req` does, so it offers anew what it has then."""
        self._choosing.forget(source)
        self._asking.gone(source)

    def _left(self, source: Fetching) -> None:
        self._seeker.source_left(source)
        self._choosing.forget(source)

    @property
    def hashing_somewhere(self) -> bool:
        """True while a holder hashes the file, or what is here is compared."""
        return self._comparing or self._offers.hashing_somewhere

    @property
    def peers(self) -> int:
        """How many may be on the file."""
        return self._asking.here

    def others(self) -> list[dict[str, Any]]:
        """Contents that are offered now, other than the one chosen: as a conflict lists them."""
        return [row for row in self._choosing.variants_now() if row["id"] != self._choosing.wanted]

    @property
    def had_sources(self) -> bool:
        """True where there is, or was, somebody to fetch from."""
        return bool(self.closed or self.bans.any_ever or self._choosing.offering)

    def stop(self) -> None:
        """The `req` stands no longer."""
        self._asking.stop()


def why_waiting(seeking: Seeking, now: float, *, begun: bool) -> str | None:
    """What a transfer without a source waits for, where that is worth a sentence.

    ``begun``: its content is chosen.
    """
    banned = seeking.bans.standing(now)
    if banned:
        info, left = banned[0]
        again = f"used again in {left:.0f} s at the earliest"
        if len(banned) == 1:
            return f"{escape(info.name)} sent wrong data and is {again}; others are waited for"
        return f"{len(banned)} peers sent wrong data and are {again}; others are waited for"
    if begun and seeking.others():
        return "only other contents of that name are offered"
    return None
