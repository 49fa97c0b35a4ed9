"""Swarm states as strings: one line for each peer, one character for each piece.

Of the downloader (``me``) and of those it fetches from::

    me     ##1o.     #: held  .: missing  1: asked of p1  o: asked of owner
    owner  #####
    p1     ##.#.

and of a holder (its name comes first) and of those who want something of it::

    owner  #####
    p1     #..#.     #: announced

What is done next is a string again: ``get 3-4``, ``decline``, ``owner want 3``, ``p1 0,3``.
"""

from __future__ import annotations

from typing import Any

from p2pd.fetch.granting import Granting
from p2pd.fetch.picker import Run
from p2pd.fetch.transfer import Transfer
from p2pd.pieces import Bitfield, format_runs, parse_runs

PIECE = 64 * 1024


def parse(text: str) -> dict[str, str]:
    """The lines of a state: of each name its pieces."""
    rows = dict(line.split() for line in text.strip().splitlines())
    assert len({len(row) for row in rows.values()}) == 1, "rows of one length"
    return rows


def held(row: str) -> Bitfield:
    """The pieces that a line shows as held."""
    return Bitfield.of(len(row), (piece for piece, char in enumerate(row) if char == "#"))


def run_of(text: str, count: int = 1 << 20) -> Run:
    """``3-5`` as a run."""
    ((first, end),) = parse_runs(text, count).runs()
    return Run(first, end)


def text_of(run: Run) -> str:
    """A run as a person writes it."""
    return format_runs([(run.first, run.end)])


class Fetching:
    """A transfer in the state that the lines show; sources have the names of their lines."""

    def __init__(self, text: str, *, piece: int = PIECE, **more: Any) -> None:
        rows = parse(text)
        mine = rows.pop("me")
        self.now = 100.0
        self.piece = piece
        self.said: list[str] = []
        self.gets: dict[tuple[str, int], Run] = {}
        self._number = 0
        self.transfer = Transfer(len(mine) * piece, piece, held(mine), self, seed="me")
        for name, row in rows.items():
            have = held(row)
            self.transfer.add_source(name, name, None if have.complete else have, self.now, **more)
        for index, char in enumerate(mine):
            if char not in "#.":
                (name,) = [name for name in rows if name[-1 if char.isdigit() else 0] == char]
                assert self.grant(name, str(index)) == f"get {index}"
        self.told()

    # The driver

    def want(self, source: Any, count: int, place: int, once: bool) -> None:
        self.said.append(f"{source} want {count}" + (" once" if once else ""))

    def get(self, source: Any, grant: int, run: Run, duplicate: bool) -> None:
        live = [mine for (_, _), mine in self.gets.items() if set(mine) & set(run)]
        assert bool(live) == duplicate, "two live grants outside the endgame"
        assert len(live) < 2, "more than two at once"
        self.gets[source, grant] = run

    def cancel(self, source: Any, grant: int) -> None:
        self.said.append(f"{source} cancel {text_of(self.gets.pop((source, grant)))}")

    def blame(self, source: Any, piece: int) -> None:
        self.said.append(f"{source} blamed")

    def trust(self, source: Any) -> None:
        self.said.append(f"{source} trusted")

    # What tests do

    def told(self) -> str:
        """What the sources were told since the last time, grants that were used excepted."""
        said, self.said = self.said, []
        return ", ".join(said)

    def grant(self, name: str, named: str = "", limit: int = 1 << 40, *, needed: bool = True) -> str:
        """The source gives a grant, for certain pieces where ``named`` names some."""
        self._number += 1
        run = run_of(named) if named else None
        if not needed and self.transfer.puts_off(name, self.now):
            return "later"
        used = self.transfer.granted(name, self._number, limit, self.now, run)
        assert used == ((name, self._number) in self.gets)
        return f"get {text_of(self.gets[name, self._number])}" if used else "decline"

    def sends(self, name: str, seconds: float = 0.1, count: int | None = None) -> None:
        """Its oldest get comes whole; or only ``count`` bytes of it, in so many seconds."""
        self.now += seconds
        grant = next(number for source, number in self.gets if source == name)
        if count is not None:
            self.transfer.progressed(name, grant, count, self.now)
            return
        run = self.gets.pop((name, grant))
        self.transfer.progressed(name, grant, len(run) * self.piece, self.now)
        for index in run:
            if self.transfer.piece_arrived(name, grant, index, True, self.now):
                self.transfer.piece_written(index)

    def refuses(self, name: str) -> None:
        """`cancelled` for its oldest get, though nobody cancelled it."""
        grant = next(number for source, number in self.gets if source == name)
        del self.gets[name, grant]
        self.transfer.ended(name, grant, self.now)

    def goes(self, name: str) -> None:
        """It leaves."""
        for source, grant in list(self.gets):
            if source == name:
                del self.gets[source, grant]
        self.transfer.remove_source(name, self.now)

    def announces(self, name: str, pieces: str) -> None:
        """`have piece`."""
        self.transfer.source_has(name, run_of(pieces).mask, self.now)

    def wait(self, seconds: float) -> None:
        """Time passes, and ticks come."""
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            self.transfer.tick(self.now)

    def state(self) -> str:
        """``me`` as a line; a piece that two are asked for is a ``*``."""
        row = ["#" if index in self.transfer.held else "." for index in range(self.transfer.held.count)]
        for (name, _), run in self.gets.items():
            for index in run:
                char = name[-1] if name[-1].isdigit() else name[0]
                row[index] = char if row[index] == "." else "*"
        return "".join(row)


class Serving:
    """A granting in the state that the lines show; all but the first want ``wants`` grants each.

    Grants are answered at once by who gets them, unless he is ``silent``.
    """

    def __init__(self, text: str, wants: int = 1, *, piece: int = PIECE, **more: Any) -> None:
        rows = parse(text)
        self.name, own = next(iter(rows.items()))
        del rows[self.name]
        self.held = held(own)
        self.count, self.piece = len(own), piece
        self.now = 100.0
        self.granting = Granting(self)
        self.open: dict[int, tuple[str, Run | None]] = {}
        self.used: dict[int, Run] = {}
        self.sending: list[int] = []
        # Who has everything wants nothing, and is there so that nobody is alone at first.
        self.want("nobody", 1)
        for name, row in rows.items():
            self.has(name, held(row).mask)
        for name in rows:
            self.want(name, wants, **more)
        self.granting.left("nobody", self.now)
        for number in [number for number, (name, _) in self.open.items() if name == "nobody"]:
            del self.open[number]
        self.granting.tick(self.now)

    # The driver

    def grant(self, client: Any, file: Any, grant: int, limit: int, run: Run | None, *, needed: bool) -> None:
        self.open[grant] = client, run

    def send(self, client: Any, grant: int) -> None:
        self.sending.append(grant)

    # What tests do

    def want(self, name: str, count: int, **more: Any) -> None:
        self.granting.offer("f", self.count, self.piece, None if self.held.complete else self.held)
        self.granting.want(name, "f", count, self.now, **more)

    def has(self, name: str, mask: int) -> None:
        self.granting.has(name, "f", mask, self.now)

    def grants(self) -> str:
        """Those that are open and not used: ``p1 3, p2 any``."""
        rows = [
            f"{name} {text_of(run) if run is not None else 'any'}"
            for number, (name, run) in self.open.items()
            if number not in self.used
        ]
        return ", ".join(sorted(rows))

    def goes_out(self) -> str:
        """What is being sent: ``p1 3``."""
        return ", ".join(
            sorted(f"{self.open[number][0]} {text_of(self.used[number])}" for number in self.sending)
        )

    def number(self, name: str) -> int:
        """Its oldest grant that is not used."""
        numbers = [n for n, (each, _) in self.open.items() if each == name and n not in self.used]
        assert numbers, f"{name} has no grant"
        return numbers[0]

    def uses(self, name: str, pieces: str = "") -> None:
        """It uses its oldest grant, for these pieces or those that were named."""
        number = self.number(name)
        run = run_of(pieces) if pieces else self.open[number][1]
        assert run is not None
        self.used[number] = run
        self.granting.named(number, run, len(run) * self.piece, self.now)

    def declines(self, name: str) -> None:
        number = self.number(name)
        del self.open[number]
        self.granting.declined(number, self.now)

    def sent(self, name: str, seconds: float = 0.1) -> None:
        """What goes out to it went, in so many seconds."""
        self.now += seconds
        number = next(number for number in self.sending if self.open[number][0] == name)
        self.sending.remove(number)
        del self.open[number]
        self.granting.sent(len(self.used[number]) * self.piece, self.now)
        self.granting.finished(number, self.now)
        del self.used[number]

    def wait(self, seconds: float) -> None:
        """Time passes, and ticks come."""
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            self.granting.tick(self.now)
