"""What is drawn on a terminal, with rich: imported only when there is one.

Names go in as :class:`rich.text.Text`, never as markup, and escaped before that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from p2pd.cli.render import Column, Row, escape, rate, seconds, size

_NAME_WIDTH = 28
_ECHO = 3
"""Cells kept free for the "^C" that a terminal echoes: it would begin a new line, and all be drawn twice."""
_LEAST = 12
"""Cells that a column which can be cut short keeps at least."""


def draw_table(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """Print a table on standard output, as wide as the terminal allows.

    Names fold and lists are cut short; all other cells stay whole on their line, so that an id can be
    copied. A terminal too narrow even so wraps the lines itself, and then nothing folds.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(_laid_out(console, columns, list(rows)))


class Screen:
    """A table on standard output that is drawn anew, in place, whenever its rows change."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._console = Console(markup=False, emoji=False, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="ellipsis")
        self._live.start()

    def draw(self, rows: Sequence[Row]) -> None:
        """Show these."""
        # the terminal may have another width by now
        self._console.width = width = max(os.get_terminal_size(sys.stdout.fileno()).columns - _ECHO, 1)
        drawn = _laid_out(self._console, self._columns, rows)
        self._console.width = width  # what is too wide is cut: a line that wraps could not be drawn over
        self._live.update(drawn, refresh=True)

    def close(self) -> None:
        """Leave what was drawn last on the screen."""
        self._live.stop()


def _laid_out(console: Console, columns: Sequence[Column], given: Sequence[Row]) -> Table:
    """The table; makes ``console`` wider where that is too narrow."""
    cells = [(column, [column.cell(row) for row in given]) for column in columns]
    cells = [(column, texts) for column, texts in cells if any(texts) or not given]
    widths = [max(map(cell_len, (column.title, *texts))) for column, texts in cells]
    cut = [index for index, (column, _) in enumerate(cells) if column.shrinks]
    folded = [index for index, (column, _) in enumerate(cells) if column.folds]
    soft = cut + folded
    titles = sum(cell_len(cells[index][0].title) for index in soft)
    whole = sum(widths) - sum(widths[index] for index in soft)
    gap = 2
    if console.width - whole - gap * (len(cells) - 1) < sum(min(widths[index], _LEAST) for index in soft):
        gap = 1
    room = max(console.width - whole - gap * (len(cells) - 1), titles)
    # rich would rather fold names than cut ids short
    kept = sum(min(widths[index], _LEAST, room // len(soft)) for index in cut)
    for some, least in ((folded, kept), (cut, 0)):
        for index, width in zip(some, _share(room - least, [widths[index] for index in some]), strict=True):
            widths[index] = width
            room -= width
    needed = sum(widths) + gap * (len(cells) - 1)
    folding = needed <= console.width
    console.width = max(console.width, needed)
    drawn = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for (column, _), width in zip(cells, widths, strict=True):
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not (column.folds and folding),
            overflow="fold" if column.folds and folding else "ellipsis",
            width=width,
        )
    for line in zip(*(texts for _, texts in cells), strict=True):
        drawn.add_row(*map(Text, line))
    return drawn


def _share(room: int, wanted: Sequence[int]) -> list[int]:
    """What each gets of ``room``: no more than it wants, and who wants more than others the same."""
    given = [0] * len(wanted)
    ordered = sorted(range(len(wanted)), key=wanted.__getitem__)
    for done, index in enumerate(ordered):
        given[index] = min(wanted[index], max(room // (len(wanted) - done), 1))
        room -= given[index]
    return given


class _Field(ProgressColumn):
    """A cell that the daemon's event has given, as it is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get(self._name, "")), justify="right")


class Bars:
    """A bar per source and one for the whole, on standard error, drawn anew at each event."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._console.width = max(self._console.width - _ECHO, 1)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            _Field("amount"),
            _Field("rate"),
            _Field("left"),
            console=self._console,
            auto_refresh=False,
            expand=True,
        )
        self._total: TaskID | None = None
        self._sources: dict[str, TaskID] = {}

    def message(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(Text(text))

    def update(self, event: dict[str, Any]) -> None:
        """Draw one `progress` event."""
        if self._total is None:
            self._progress.start()
            self._total = self._progress.add_task("total", total=None)
        whole = event.get("size")
        whole = whole if isinstance(whole, int) else None
        for source in event.get("sources") or []:
            name = str(source.get("name"))
            if name not in self._sources:
                shown = escape(name)
                shown = shown if len(shown) <= _NAME_WIDTH else shown[: _NAME_WIDTH - 1] + "…"
                self._sources[name] = self._progress.add_task(shown, total=None)
            self._set(self._sources[name], source, whole)
        self._set(self._total, event, whole, of=f" of {size(whole)}", left=seconds(_left(event)))
        self._progress.refresh()

    def finish(self, done: dict[str, Any]) -> None:
        """Fill the bars: the last `progress` may lie a moment before `done`."""
        whole, took = done.get("size"), done.get("seconds")
        if isinstance(whole, int):
            average = whole / took if isinstance(took, int | float) and took > 0 else 0
            self.update({"bytes": whole, "size": whole, "rate": average, "sources": done.get("sources")})

    def close(self) -> None:
        """Leave what was drawn on the screen."""
        if self._total is not None:
            self._progress.stop()

    def _set(
        self, task: TaskID, row: dict[str, Any], whole: int | None, *, of: str = "", left: str = ""
    ) -> None:
        got = row.get("bytes")
        got = got if isinstance(got, int) else 0
        self._progress.update(
            task, total=whole, completed=got, amount=size(got) + of, rate=rate(row.get("rate")), left=left
        )


def _left(event: dict[str, Any]) -> float | None:
    whole, got, speed = event.get("size"), event.get("bytes"), event.get("rate")
    if isinstance(whole, int) and isinstance(got, int) and isinstance(speed, int | float) and speed > 0:
        return max(whole - got, 0) / speed
    return None
