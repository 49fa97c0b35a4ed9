"""Small swarms of real transfers and grantings in which anything happens: none comes to a standstill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pd.fetch.transfer import TICK
from p2pd.simulate import swarm as swarm_module
from p2pd.simulate.network import LATENCY
from p2pd.simulate.swarm import Machine, Plan, Swarm

PIECE = 64 * 1024
RATE = 1e6


class Troubled(Machine):
    """One whose connections break, and whose user pauses."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.breaks: Counter[int] = Counter()

    def _say(self, other: Machine, what: Callable[..., None], *args: object) -> None:
        assert isinstance(other, Troubled)
        now = self.breaks[other.number]

        def hear() -> None:
            if self.breaks[other.number] == now:
                self._hear(other, what, args)  # else it was said on a connection that is no more

        self.clock.later(LATENCY, hear)

    def part(self, other: Troubled) -> None:
        """The connection to the other one breaks; the next tick makes a new one."""
        for one, its in ((self, other), (other, self)):
            one.breaks[its.number] += 1
            one.lost(its)

    def pause(self) -> None:
        if self.transfer is not None and not self.transfer.done:
            self.transfer.pause()

    def resume(self) -> None:
        if self.transfer is not None and not self.transfer.done:
            self.transfer.resume(self.clock.now)


def _ends(swarm: Swarm, quiet: float) -> None:
    """Run it; an AssertionError where it would not come to its end long after the last disturbance."""
    swarm.clock.later(quiet + 20 * swarm.plan.bound().seconds + 60, _hangs)
    swarm.run()


def _hangs() -> None:
    raise AssertionError("somebody waits for ever")


@pytest.mark.fault(63)
def test_who_was_silent_and_answers_a_cancel_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(
        1, size=3 * PIECE - 973, piece_size=PIECE, up=RATE, down=RATE, owner_up=RATE, seed=98, slow=RATE / 20
    )
    monkeypatch.setattr(swarm_module, "Machine", Troubled)
    swarm = Swarm(plan)
    owner: Any = swarm.owner
    slow: Any = swarm.peers[0]
    plan.start(1)
    for at in (0.992, 4.36):
        swarm.clock.later(at, slow.part, owner)
    for at, length in ((4.31, 0.3), (3.542, 0.3), (2.91, 0.0), (2.245, 0.0)):
        swarm.clock.later(at, slow.pause)
        swarm.clock.later(at + length, slow.resume)
    # What was cancelled still fills its link: nothing comes for 5 s of what was asked for last.
    _ends(swarm, 5.0)
    assert slow.held.complete


@pytest.mark.fault(63)
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_happens_all_have_it_soon_after(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 24), "pieces")
    peers = data.draw(st.integers(1, 5), "peers")
    plan = Plan(
        peers=peers, size=count * PIECE - data.draw(st.integers(0, PIECE - 1)), piece_size=PIECE,
        up=RATE, down=RATE, owner_up=RATE, seed=data.draw(st.integers(0, 99)),
        stagger=data.draw(st.sampled_from([0.0, 0.3])), slow=data.draw(st.sampled_from([None, RATE / 20])),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swarm_module, "Machine", Troubled)
        swarm = Swarm(plan)
    everybody: list[Any] = [swarm.owner, *swarm.peers]
    quiet = plan.start(peers)
    for _ in range(data.draw(st.integers(0, 8), "events")):
        at = data.draw(st.floats(0.0, plan.bound().seconds * 1.5), "at")
        one = everybody[data.draw(st.integers(1, peers), "who")]
        if data.draw(st.booleans(), "a pause"):
            length = data.draw(st.sampled_from([0.0, 0.0005, 0.002, 0.3, 2.0]), "of")
            swarm.clock.later(at, one.pause)
            swarm.clock.later(at + length, one.resume)
        else:
            length = 0.0
            other = everybody[data.draw(st.integers(0, peers), "with")]
            if other is not one:
                swarm.clock.later(at, one.part, other)
        quiet = max(quiet, at + length)
    for each in everybody[1:]:
        swarm.clock.later(quiet, each.resume)
    _ends(swarm, quiet)
    assert all(each.held.complete for each in swarm.peers)
    # What was lost was asked for again at once: by simulated seconds, nobody had to be found silent.
    bound = attrs.evolve(plan, slow=None).bound().seconds
    for each in swarm.peers:
        assert each.done_at is not None
        if each.number > 1 or plan.slow is None:
            assert each.done_at < quiet + 2 * bound + 8 * TICK
