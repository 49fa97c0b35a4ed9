"""``p2pctl simulate``: a swarm on a simulated network, how long it takes, and how long it would have to."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from p2pd.errors import P2PError, UsageError
from p2pd.pieces import MAX_PIECES, default_piece_size, piece_count
from p2pd.simulate.network import FRAMING
from p2pd.simulate.swarm import Plan, Swarm

MAX_PEERS = 100_000
PLOTS = (".png", ".svg")


def simulate(args: Namespace) -> dict[str, Any]:
    """Run what the arguments of the command say; gives what is printed. P2PError."""
    plan = _plan(args)
    plot = Path(args.plot) if args.plot else None
    if plot is not None and plot.suffix not in PLOTS:
        raise UsageError(f"--plot: the file's name ends in {' or '.join(PLOTS)}")
    trace: list[tuple[float, int, int, int]] | None = [] if args.trace or plot is not None else None
    began = time.process_time()
    swarm = Swarm(plan, trace=trace)
    makespan = swarm.run()
    if args.trace and trace is not None:
        _write_trace(Path(args.trace), trace)
    if plot is not None and trace is not None:
        from p2pd.simulate.plot import draw

        draw(plot, plan, trace)
    bound = plan.bound()
    return {
        "peers": plan.peers, "size": plan.size, "piece_size": plan.piece_size, "pieces": plan.count,
        "makespan": round(makespan, 3), "bound": round(bound.seconds, 3), "limited_by": bound.limited_by,
        "terms": {name: round(seconds, 3) for name, seconds in bound.terms.items()},
        "ratio": round(makespan / bound.seconds, 4),
        "framing": FRAMING, "ratio_framing_deducted": round(makespan / bound.seconds / FRAMING, 4),
        "owner_copies": round(swarm.owner_sent / plan.size, 3), "died": swarm.died,
        "took": round(time.process_time() - began, 2),
    }  # fmt: skip


def _plan(args: Namespace) -> Plan:
    if not 1 <= args.peers <= MAX_PEERS:
        raise UsageError(f"--peers: from 1 to {MAX_PEERS}")
    if not 0 <= args.fail < args.peers:
        raise UsageError("--fail: fewer than there are peers")
    piece_size = args.piece_size or default_piece_size(args.size)
    count = piece_count(args.size, piece_size)
    if not args.size or count > MAX_PIECES:
        raise UsageError(
            f"--size: a file has from 1 to {MAX_PIECES} pieces here, this one would have {count}"
        )
    return Plan(
        peers=args.peers, size=args.size, piece_size=piece_size, up=args.up, down=args.down,
        owner_up=args.owner_up or args.up, stagger=args.stagger, fail=args.fail, slow=args.slow,
        seed=args.seed,
    )  # fmt: skip


def _write_trace(path: Path, trace: list[tuple[float, int, int, int]]) -> None:
    try:
        with path.open("w", encoding="ascii") as file:
            for at, peer, source, piece in trace:
                row = {"at": round(at, 6), "peer": peer, "from": source, "piece": piece}
                file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise P2PError(f"{path} cannot be written: {error.strerror}") from error


def text(found: dict[str, Any]) -> str:
    """The same for a person, several lines."""
    terms = found["terms"]
    lines = [
        f"{found['peers']} peers, {found['size']} bytes in {found['pieces']} pieces of {found['piece_size']}",
        f"makespan  {found['makespan']} s",
        f"bound     {found['bound']} s: the largest of",
        f"            size / owner's up                 {terms['owner']} s",
        f"            size / slowest down               {terms['down']} s",
        f"            peers * size / (all that go up)   {terms['all']} s",
        f"ratio     {found['ratio']}, of which framing {found['framing']}:"
        f" {found['ratio_framing_deducted']} without",
        f"owner     sent {found['owner_copies']} copies",
    ]
    if found["died"]:
        lines.append(f"died      {found['died']} peers")
    return "\n".join(lines)
