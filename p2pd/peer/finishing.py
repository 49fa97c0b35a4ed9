"""The end of a file that came: its digest, its name, its place in the share, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from p2pd.errors import VerifyError
from p2pd.model import Manifest
from p2pd.peer.household import Household
from p2pd.peer.intake import Intake
from p2pd.share.hashing import Cancelled
from p2pd.share.partial import Job
from p2pd.status import why_slow
from p2pd.text import escape

log = Logger("p2pd.peer")


async def finish(house: Household, job: Job, intake: Intake, given_up: Callable[[], bool]) -> None:
    """Check the digest that was asked for, bring the data to disk, give it its name, list it.

    VerifyError, StorageError, ConflictError; Cancelled where ``given_up`` in time.
    """
    if job.sha256 is not None:
        digest = await house.in_thread(lambda: intake.file.digest("sha256", given_up))
        if digest != job.sha256:
            raise VerifyError(f"{escape(job.name)}: its SHA-256 is {digest}")
    if given_up():
        raise Cancelled
    await house.in_thread(lambda: intake.file.finish(job.target, job.replace))
    await house.index.adopt(job.target, intake.manifest)
    intake.account.ended(house.now())


def report(
    house: Household, job: Job, manifest: Manifest, intake: Intake | None, seconds: float
) -> dict[str, Any]:
    """The summary line on the console, and the keys of `done`."""
    sources = intake.sources() if intake is not None else []
    held_up, bound = intake.why_slow() if intake is not None else (None, None)
    log.info(
        "{file}: {size} bytes in {seconds} s from {sources}",
        file=escape(job.target), size=manifest.size, seconds=seconds,
        sources=", ".join(f"{escape(each.name)} ({each.bytes})" for each in sources) or "this share",
        often=True,
    )  # fmt: skip
    return {
        "name": job.target,
        "path": house.root.path_of(job.target),
        "size": manifest.size,
        "id": manifest.file_id,
        "seconds": seconds,
        "sources": [{"name": each.name, "bytes": each.bytes} for each in sources],
        **why_slow(held_up, bound),
    }
