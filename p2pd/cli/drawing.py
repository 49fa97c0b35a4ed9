"""What is drawn on a terminal, with rich: imported only when there is one.

Names go in as :class:`rich.text.Text`, never as markup, and escaped before that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from p2pd.cli.render import Column, Row, escape, rate, seconds, size

_NAME_WIDTH = 28
_LEAST = 12
"""Cells that a column which can be cut short keeps at least."""


def draw_table(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """Print a table on standard output, as wide as the terminal allows."""
    console = Console(markup=False, emoji=False, highlight=False)
    cells = [[column.cell(row) for column in columns] for row in rows]
    widths = [
        max(cell_len(text) for text in (column.title, *(line[index] for line in cells)))
        for index, column in enumerate(columns)
    ]
    # rich would rather fold names than cut ids short
    taken = sum(w for w, column in zip(widths, columns, strict=True) if not column.shrinks)
    room = max(console.width - taken - 2 * (len(columns) - 1), _LEAST)
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.shrinks or column.right,
            overflow="ellipsis" if column.shrinks else "fold",
            max_width=room if column.shrinks else None,
        )
    for line in cells:
        drawn.add_row(*map(Text, line))
    console.print(drawn)


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
        # room for the "^C" that a terminal echoes: it would begin a new line, and the bars be drawn twice
        self._console.width = max(self._console.width - 3, 1)
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
