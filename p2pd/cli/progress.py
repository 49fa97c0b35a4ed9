"""What goes on, for people: drawn on a terminal, a line now and then elsewhere.

A `req` on standard error, a listing that is watched on standard output.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from p2pd.cli.render import LISTINGS, escape, rate, seconds, size, table

if TYPE_CHECKING:
    from p2pd.cli.drawing import Bars, Screen

_STEP = 10
"""Percent between two plain lines."""
_INTERVAL = 5.0
"""Seconds after which a plain line comes even if little has."""


class Reporter:
    """Fed with the events of one `req`; ``quiet`` shows nothing."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._draws = not quiet and sys.stderr.isatty()
        self._bars: Bars | None = None
        self._last = (-_STEP, float("-inf"))
        self._sources: tuple[str, ...] = ()
        self._lonely = False

    def event(self, event: dict[str, Any]) -> None:
        """Show one event; unknown ones are passed over."""
        if self._quiet:
            return
        kind = event.get("event")
        if kind == "sources":
            names = tuple(escape(str(source.get("name"))) for source in event.get("sources") or [])
            if names != self._sources:
                self._sources = names
                self._lonely = not names
                if names:
                    self._say(f"from {', '.join(names)}")
        elif kind == "note":
            self._say(escape(str(event.get("message"))))
        elif kind == "progress":
            self._progress(event)
        elif kind == "done" and self._bars is not None:
            self._bars.finish(event)

    def close(self) -> None:
        """Let go of the terminal."""
        if self._bars is not None:
            self._bars.close()
            self._bars = None

    def _say(self, text: str) -> None:
        if self._bars is not None:
            self._bars.message(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def _progress(self, event: dict[str, Any]) -> None:
        if self._lonely:
            self._lonely = False
            if event.get("bytes") != event.get("size"):  # else nobody is needed any more
                self._say("no source at the moment")
        if self._draws:
            if self._bars is None:
                from p2pd.cli.drawing import Bars

                self._bars = Bars()
            self._bars.update(event)
            return
        got, whole, speed = event.get("bytes"), event.get("size"), event.get("rate")
        if not isinstance(got, int) or not isinstance(whole, int):
            return
        done = 100 * got // whole if whole else 100
        shown, when = self._last
        now = time.monotonic()
        if done < shown + _STEP and now < when + _INTERVAL and not (done == 100 > shown):
            return
        self._last = (done - done % _STEP, now)
        left = seconds((whole - got) / speed) if isinstance(speed, int | float) and speed > 0 else "-"
        self._say(f"{done:3}%  {size(got)} of {size(whole)}  {rate(speed)}  {left} left")


class Watcher:
    """Fed with the rows of a listing that goes on; ``command``: which one.

    A terminal always shows all rows, drawn anew; elsewhere each row that changed is a line.
    """

    def __init__(self, command: str) -> None:
        self._columns = LISTINGS[command]
        self._rows: dict[str, dict[str, Any]] = {}
        self._new: list[dict[str, Any]] = []
        self._screen: Screen | None = None
        self._titled = False

    def event(self, kind: str, row: dict[str, Any], *, more: bool) -> None:
        """One row, of kind `item` or `gone`; ``more`` are here already: then it is shown with them."""
        if kind == "item":
            # Who comes first stays there: lines that jump cannot be read.
            self._rows[str(row.get("id"))] = row
            self._new.append(row)
        elif kind == "gone":
            self._rows.pop(str(row.get("id")), None)
        if not more:
            self._show()

    def _show(self) -> None:
        if sys.stdout.isatty():
            if self._screen is None:
                from p2pd.cli.drawing import Screen

                self._screen = Screen(self._columns)
            self._screen.draw(list(self._rows.values()))
        elif self._new:
            lines = table(self._columns, self._new)
            print(lines if not self._titled else lines.partition("\n")[2], flush=True)
            self._titled = True
        self._new.clear()

    def close(self) -> None:
        """Leave what was drawn last on the screen."""
        if self._screen is not None:
            self._screen.close()
