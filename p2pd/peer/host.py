"""What a conversation needs of its daemon, and who is on the other side of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs

from p2pd.model import PeerId
from p2pd.net.limits import Limit
from p2pd.peer.serving import Serving
from p2pd.wire import messages as m

if TYPE_CHECKING:
    from p2pd.peer.conversation import Conversation


class Host(Protocol):
    """What a conversation needs of its daemon."""

    down: Limit
    """Of all that comes in."""

    def now(self) -> float:
        """Monotonic seconds."""

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        """Call ``work`` after so many seconds."""

    def hello(self) -> m.Hello:
        """Who we are."""

    def introduced(self, conversation: Conversation) -> None:
        """The other side said hello. RefusedError closes the conversation."""

    def closed(self, conversation: Conversation) -> None:
        """It is over (also where it was never introduced)."""

    def make_serving(self, conversation: Conversation) -> Serving:
        """The serving side of a new conversation."""


@attrs.frozen
class Other:
    """Who is on the other side, as it says in its hello; ``host`` is the observed address."""

    id: PeerId
    name: str
    host: str
    port: int
