"""A file of the wanted name is in the share already: is it what was asked for?"""

from __future__ import annotations

from p2pd.errors import ConflictError, NotFoundError, P2PError, VerifyError
from p2pd.model import Manifest
from p2pd.peer.choosing import Choosing
from p2pd.peer.household import Household
from p2pd.share.disk import sha256_of
from p2pd.share.index import Entry
from p2pd.share.partial import Job
from p2pd.text import escape


async def pinned_content(house: Household, job: Job, local: Entry) -> Manifest | None:
    """The manifest of what is here where that has the id that was asked for: nobody need be asked."""
    mine = await _manifest(house, job, 0)
    if mine is None or mine.file_id != job.file_id:
        return None
    await _check_digest(house, job, local)
    return mine


async def same_content(house: Household, job: Job, choosing: Choosing, local: Entry) -> Manifest:
    """The manifest of what is here, where it is what the others offer, or nobody else offers any.

    ConflictError where it is another content, VerifyError where it has not the digest that was
    asked for, NotFoundError where the name asked for is another one, and nobody has it.
    """
    groups = choosing.offers.by_id()
    wanted = choosing.wanted if choosing.pinned else next(iter(groups), None)
    offer = groups[wanted][0][2] if wanted in groups else None
    if not groups and local.name == job.name:
        same = await _manifest(house, job, 0)
        if same is None:
            raise NotFoundError(f"{escape(job.name)} changed while it was looked at")
    else:
        if offer is None and local.name != job.name:
            raise NotFoundError(f"nobody has {escape(job.name)}")
        same = None
        if offer is not None and offer.size == local.key.size:
            same = await _manifest(house, job, offer.piece_size)
        if same is None or same.file_id != wanted:
            mine = await _manifest(house, job, 0)
            row = {"id": mine.file_id, "size": mine.size, "holders": [house.label]} if mine else None
            text = f"a different {escape(job.target)} is here already: --replace it, or choose --output"
            raise ConflictError(text, variants=choosing.variants(row))
    await _check_digest(house, job, local)
    return same


async def _check_digest(house: Household, job: Job, local: Entry) -> None:
    if job.sha256 is not None:
        digest = await house.in_thread(lambda: sha256_of(house.root, local.rel))
        if digest != job.sha256:
            raise VerifyError(f"{escape(local.name)} is here, but its SHA-256 is {digest}")


async def _manifest(house: Household, job: Job, piece_size: int) -> Manifest | None:
    try:
        return await house.index.manifest(job.target, piece_size)
    except P2PError:
        return None
