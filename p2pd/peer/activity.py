"""What the console shows of the traffic: one line each, in the users' own words."""

from __future__ import annotations

from twisted.logger import Logger

from p2pd.fetch.picker import Run
from p2pd.net.console import often
from p2pd.text import escape

log = Logger("p2pd.peer")


class Activity:
    """Lines such as ``asked for piece 3 of bison.exe from lab-7002``; nothing where switched off."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def note(self, what: str, run: Run | None, file: str, other: str) -> None:
        """``what``: a kind of docs/cli.md up to its last word; ``run`` None: the piece list.

        ``other`` with its preposition: ``from lab-7002``.
        """
        if not self.on:
            return
        if run is None:
            thing = "piece list"
        elif len(run) == 1:
            thing = f"piece {run.first}"
        else:
            thing = f"range {run.first}-{run.end - 1}"
        often(log, what, f"{what} {thing} of {escape(file)} {other}")
