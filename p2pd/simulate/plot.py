"""The picture of a simulated swarm: the pieces that each peer holds over time."""

from __future__ import annotations

from pathlib import Path

from p2pd.errors import P2PError
from p2pd.simulate.swarm import Plan

LINES = 200
"""Peers that get a line of their own; of more, the rest is left out."""


def draw(path: Path, plan: Plan, trace: list[tuple[float, int, int, int]]) -> None:
    """Write a PNG or SVG, by the name's end. P2PError where that cannot be."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise P2PError("--plot needs matplotlib: pip install 'p2pd[plot]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    step = max(1, plan.peers // LINES)
    held: dict[int, tuple[list[float], list[int]]] = {
        peer: ([plan.start(peer)], [0]) for peer in range(1, plan.peers + 1, step)
    }
    for at, peer, _, _ in trace:
        if peer in held:
            times, counts = held[peer]
            times.append(at)
            counts.append(counts[-1] + 1)
    for times, counts in held.values():
        axes.step(times, counts, where="post", linewidth=0.8, alpha=0.6)
    bound = plan.bound().seconds
    axes.axvline(bound, color="black", linestyle="--", linewidth=1, label=f"bound {bound:.1f} s")
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"pieces held, of {plan.count}")
    shown = f"{len(held)} of them shown" if step > 1 else "each a line"
    axes.set_title(f"{plan.peers} peers, {shown}")
    axes.set_xlim(left=0)
    axes.set_ylim(0, plan.count)
    axes.legend(loc="upper left")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise P2PError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        pyplot.close(figure)
