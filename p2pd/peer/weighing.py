"""How much a message counts against the pace of a connection: some take longer than others. Pure."""

from __future__ import annotations

from p2pd.net.pace import COUNTED
from p2pd.wire import messages as m
from p2pd.wire.codec import UnknownVerb

LISTED = 16
"""A list of pieces counts as a line that is so many times as long: so much longer it takes to be read."""
RECONSIDERED = 4
"""What makes the granting look at everybody anew counts as so many lines."""


def weight(event: m.Message | UnknownVerb, length: int) -> int:
    """The bytes of a plain line that takes as long as ``event`` in a line of ``length`` bytes."""
    if isinstance(event, m.HavePiece):
        return length * LISTED
    if isinstance(event, m.Want | m.Decline | m.Cancel):
        return (RECONSIDERED - 1) * COUNTED
    return length
