"""The simulator: the real scheduling on a network that there is not, and nothing chosen by itself."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import p2pd.simulate
from p2pd.control import commands
from p2pd.errors import P2PError, UsageError
from p2pd.simulate.command import simulate, text
from p2pd.simulate.swarm import Machine, Plan, Swarm

FOLDER = Path(p2pd.simulate.__file__).parent
CHOOSERS = {
    "choice", "choices", "sample", "shuffle", "randrange", "randint", "min", "sorted", "sort", "take",
    "take_named", "rarest", "lowest", "highest", "forward", "add", "discard", "update", "got",
}  # fmt: skip


def run(line: str) -> dict[str, Any]:
    return simulate(commands.parse(["simulate", *line.split()]))


def machines() -> list[ast.ClassDef]:
    classes = [
        node
        for name in ("swarm.py", "network.py")
        for node in ast.parse((FOLDER / name).read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name not in ("Plan", "Bound")
    ]
    assert {"Machine", "Swarm", "Link"} <= {each.name for each in classes}
    return classes


def test_it_chooses_no_piece_and_no_source() -> None:
    for node in (each for cls in machines() for each in ast.walk(cls)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            told = isinstance(owner, ast.Attribute) and owner.attr == "_announcing"
            told = told or (called == "min" and not node.keywords and len(node.args) == 2)
            assert called not in CHOOSERS or told, f"line {node.lineno}: {called}"
            if called == "Run":
                assert all(isinstance(each, ast.Constant) for each in node.args), "a run is made by nobody"


def test_it_uses_the_code_that_runs_between_machines() -> None:
    tree = ast.parse((FOLDER / "swarm.py").read_text("utf-8"))
    taken = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name, module in {
        "Transfer": "p2pd.fetch.transfer", "Granting": "p2pd.fetch.granting",
        "Announcing": "p2pd.fetch.announcing", "Neighbours": "p2pd.fetch.neighbours",
    }.items():  # fmt: skip
        assert taken[name] == module
    assert {name for name, module in taken.items() if module == "p2pd.fetch.picker"} == {"Run"}


def test_one_to_one_takes_what_the_link_takes() -> None:
    found = run("--peers 1 --size 100M --up 10M --down 10M")
    assert found["bound"] == 10.0
    assert 1.05 < found["ratio"] < 1.08
    assert found["owner_copies"] == 1.0


@pytest.mark.parametrize(
    ("line", "limited_by", "bound"),
    [
        ("--peers 4 --size 100M --up 10M --down 10M", "owner", 10.0),
        ("--peers 4 --size 100M --up 10M --down 2M", "down", 50.0),
        ("--peers 4 --size 100M --up 1M --down 10M --owner-up 10M", "all", 400 / 14),
        ("--peers 4 --size 100M --up 10M --down 10M --slow 1M", "down", 100.0),
        ("--peers 4 --size 100M --up 10M --down 10M --stagger 5", "last", 25.0),
    ],
)
def test_the_bound_and_what_makes_it(line: str, limited_by: str, bound: float) -> None:
    found = run(line)
    assert found["limited_by"] == limited_by
    assert found["bound"] == pytest.approx(bound, abs=0.01)
    assert found["terms"][limited_by] == found["bound"]
    assert found["ratio"] == pytest.approx(found["makespan"] / found["bound"], abs=0.001)
    assert 1.0 <= found["ratio"] < 1.35


def test_a_swarm_comes_close_to_the_bound() -> None:
    found = run("--peers 8 --size 256Mi --piece-size 128Ki")
    assert found["ratio"] < 1.1
    assert found["owner_copies"] < 1.15


def test_an_owner_whose_link_is_faster_than_those_of_a_few_fills_it() -> None:
    found = run("--peers 8 --size 1000Mi --piece-size 50Mi --up 2.5M --down 25M --owner-up 100M")
    assert found["ratio"] < 1.3


def test_of_a_hundred_with_neighbours_nobody_is_far_behind() -> None:
    swarm = Swarm(Plan(peers=100, size=50 * 2**20, piece_size=2**20, up=12.5e6, down=12.5e6, owner_up=12.5e6))
    ratio = swarm.run() / swarm.plan.bound().seconds
    assert ratio < 1.8
    met = [len(peer.met) for peer in swarm.peers]
    assert min(met) >= 15
    assert max(met) <= 45


def test_a_slow_one_holds_up_nobody() -> None:
    plan = Plan(
        peers=8, size=64 * 2**20, piece_size=128 * 1024, up=12.5e6, down=12.5e6, owner_up=12.5e6, slow=12.5e5
    )
    swarm = Swarm(plan)
    swarm.run()
    ends = sorted(peer.done_at or 0.0 for peer in swarm.peers)
    own = plan.size / plan.down
    assert ends[-2] < 1.2 * own, "the seven fast ones"
    assert ends[-1] < 1.2 * plan.size / 12.5e5


def test_some_die_and_the_others_go_on() -> None:
    found = run("--peers 8 --size 64Mi --fail 2")
    assert found["died"] == 2
    assert found["ratio"] < 1.3


def test_the_same_seed_gives_the_same_swarm() -> None:
    line = "--peers 6 --size 16Mi --seed"
    first, again, *others = (run(f"{line} {seed}")["makespan"] for seed in (1, 1, 2, 3, 4))
    assert first == again
    assert {first} != {*others}


def test_the_trace_has_every_piece_once(tmp_path: Path) -> None:
    found = run(f"--peers 3 --size 4Mi --trace {tmp_path / 'trace'}")
    rows = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    assert sorted((row["peer"], row["piece"]) for row in rows) == [
        (peer, piece) for peer in (1, 2, 3) for piece in range(found["pieces"])
    ]
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert all(row["from"] != row["peer"] for row in rows)
    assert rows[-1]["at"] == pytest.approx(found["makespan"], abs=0.001)


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_the_picture(tmp_path: Path, suffix: str, begins: bytes) -> None:
    path = tmp_path / f"plot{suffix}"
    run(f"--peers 3 --size 4Mi --plot {path}")
    assert path.read_bytes().startswith(begins)
    assert path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--peers 0", "--peers"),
        ("--peers 3 --fail 3", "--fail"),
        ("--size 0", "--size"),
        ("--size 10G --piece-size 1K", "--size"),
        ("--plot x.pdf", "--plot"),
    ],
)
def test_what_cannot_be_simulated_is_said(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(line)


def test_a_place_where_nothing_can_be_written() -> None:
    with pytest.raises(P2PError, match="cannot be written"):
        run("--peers 1 --size 1Mi --trace /dev/null/x")
    with pytest.raises(P2PError, match="cannot be written"):
        run("--peers 1 --size 1Mi --plot /dev/null/x.svg")


def test_for_a_person_the_terms_stand_in_lines() -> None:
    said = text(run("--peers 8 --size 16Mi --fail 1"))
    assert "bound" in said
    assert "died      1" in said


def test_of_long_pieces_hardly_any_is_sent_in_vain() -> None:
    """Each used to be taken from whoever was on it for somebody who seemed faster, again and again."""
    swarm = Swarm(Plan(peers=20, size=40 * 2**26, piece_size=2**26, up=125e6, down=125e6, owner_up=125e6))
    much = 2 * swarm.plan.bound().seconds
    swarm.clock.run(lambda: swarm.clock.now > much or all(peer.done_at for peer in swarm.peers))
    assert all(peer.done_at for peer in swarm.peers)
    sent = sum(each.link.sent for each in [swarm.owner, *swarm.peers])
    assert sent < 1.1 * swarm.plan.peers * swarm.plan.size


def test_two_do_not_decline_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    declined: list[int] = []
    original = Machine.declined

    def count(self: Machine, grant: int, later: bool) -> None:
        declined.append(grant)
        original(self, grant, later)

    monkeypatch.setattr(Machine, "declined", count)
    plan = Plan(peers=2, size=64 * 2**20, piece_size=2**20, up=12.5e6, down=12.5e6, owner_up=12.5e6)
    Swarm(plan).run()
    assert len(declined) < 5 * plan.count
