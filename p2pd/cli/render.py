"""Answers as text for people. Everything that came from elsewhere goes through :func:`escape`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from p2pd.text import escape

Row = dict[str, Any]

__all__ = ["Column", "escape", "failure", "listing", "received", "status", "table"]


class Column(NamedTuple):
    """A column of a table: its title, how a row's cell is made, whether numbers stand in it.

    On a narrow terminal only what ``shrinks`` is cut short, and only what ``folds`` takes several lines.
    """

    title: str
    cell: Callable[[Row], str]
    right: bool = False
    shrinks: bool = False
    folds: bool = False


def size(count: object) -> str:
    """Bytes with a unit, powers of 1000: ``268.4 MB``; ``-`` for what is no number."""
    if isinstance(count, bool) or not isinstance(count, int | float):
        return "-"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(amount) < 999.95 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def piece_size(count: object) -> str:
    """The size of a piece, mostly a power of two: ``128 KiB``."""
    if isinstance(count, int) and count > 0:
        for shift, unit in ((20, "MiB"), (10, "KiB")):
            if count % (1 << shift) == 0:
                return f"{count >> shift} {unit}"
    return size(count)


def limits(row: Row) -> str:
    """What ``limits`` shows, one line for each direction."""
    shown = {way: "no limit" if row.get(way) is None else rate(row[way]) for way in ("up", "down")}
    return f"up    {shown['up']}\ndown  {shown['down']}"


def rate(per_second: object) -> str:
    """Bytes per second with a unit."""
    return f"{size(per_second)}/s" if per_second else "-"


def seconds(count: object) -> str:
    """A time left: ``0:42``, ``1:02:03``; ``-`` for what is no number."""
    if isinstance(count, bool) or not isinstance(count, int | float) or not 0 <= count < 1e9:
        return "-"
    minutes, rest = divmod(round(count), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(row: Row) -> str:
    """How much of a transfer is there."""
    total = row.get("size")
    if not isinstance(total, int) or not isinstance(row.get("bytes"), int):
        return "-"
    return f"{100 * row['bytes'] // total if total else 100}%"


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: "-" if row.get(key) is None else escape(str(row[key]))


def _size(key: str) -> Callable[[Row], str]:
    return lambda row: size(row.get(key))


CAUSES = {
    "own_link": ("own link", "own link"),
    "sources": ("sources", "the sources' links"),
    "disk": ("disk", "disk"),
    "owner": ("owner", "the owner"),
    "unknown": ("?", "own or the sources' links, which of them cannot be told"),
}
"""What a transfer waits for, in a table and in a sentence."""
TERMS = {"down": "own link", "owner": "the owner", "all": "all together"}
"""What bounds a swarm."""


def _held_up(row: Row) -> str:
    # What goes on waits for it now; of what has ended it counts where it took a while.
    if row.get("state") == "done" and _cause(row)[0] is None:
        return ""
    return CAUSES.get(str(row.get("held_up_by")), ("",))[0]


def _ratio(row: Row) -> float | None:
    bound = row.get("bound")
    ratio = bound.get("ratio") if isinstance(bound, dict) else None
    return float(ratio) if isinstance(ratio, int | float) else None


def _numbers(found: object) -> dict[str, float]:
    rows = found.items() if isinstance(found, dict) else ()
    return {str(name): float(value) for name, value in rows if isinstance(value, int | float)}


def _cause(row: Row) -> tuple[str | None, dict[str, float]]:
    """One of :data:`CAUSES`, and the seconds of each; None where that is not told, or nothing held it up for
    a second: a small file only waits to get its name.
    """  # fmt: skip
    cause, waits = str(row.get("held_up_by")), _numbers(row.get("held_up"))
    told = cause in CAUSES and waits.get(cause) and sum(waits.values()) >= 1.0
    return (cause if told else None), waits


def why_slow(answer: Row) -> str | None:
    """What held a transfer up and, of a swarm, how near to its bound it came; None where that is not told."""
    cause, waits = _cause(answer)
    if cause is None:
        return None
    part = 100 * waits[cause] / sum(waits.values())
    text = f"held up by {CAUSES[cause][1]} ({part:.0f}% of the time)"
    bound, ratio = answer.get("bound"), _ratio(answer)
    if isinstance(bound, dict) and ratio is not None:
        terms = _numbers(bound.get("terms"))
        known = ", ".join(f"{words} {terms[name]:.1f} s" for name, words in TERMS.items() if name in terms)
        text += f"; one of {escape(str(bound.get('peers')))} who fetch it, about {ratio:.2f} times the bound"
        text += f" by the best rates seen ({known})"
    return text


def _names(row: Row) -> str:
    sources = row.get("sources")
    if not isinstance(sources, list):
        return "-"
    return ", ".join(escape(str(s.get("name"))) for s in sources if isinstance(s, dict)) or "-"


LISTINGS: dict[str, tuple[Column, ...]] = {
    "peers": (
        Column("NAME", _text("name"), folds=True),
        Column("HOST", _text("host"), folds=True),
        Column("PORT", _text("port"), right=True),
        Column("ID", _text("id"), shrinks=True),
    ),
    "files": (
        Column("NAME", _text("name"), folds=True),
        Column("SIZE", _size("size"), right=True),
        Column("ID", _text("id"), shrinks=True),
    ),
    "transfers": (
        Column("ID", _text("id")),
        Column("NAME", _text("name"), folds=True),
        Column("WAY", _text("direction")),
        Column("STATE", _text("state")),
        Column("DONE", percent, right=True),
        Column("SIZE", _size("size"), right=True),
        Column("RATE", lambda row: rate(row.get("rate")), right=True),
        Column("LEFT", lambda row: seconds(row.get("eta")), right=True),
        Column("WITH", _names, shrinks=True),
        Column("HELD UP", _held_up),
        Column("BOUND", lambda row: f"{_ratio(row):.2f}x" if _ratio(row) else "", right=True),
        Column("WHY", lambda row: _text("message")(row) if row.get("message") else "", folds=True),
    ),
    "doctor": (
        Column("CHECK", _text("check")),
        Column("STATE", _text("state")),
        Column("MESSAGE", _text("message"), folds=True),
        Column("REMEDY", _text("remedy"), folds=True),
    ),
    "pieces": (
        Column("NAME", _text("name"), folds=True),
        Column("SIZE", _size("size"), right=True),
        Column("PIECE", lambda row: piece_size(row.get("piece_size")), right=True),
        Column("HELD", lambda row: f"{row.get('held')}/{row.get('count')}", right=True),
        Column("PIECES", _text("pieces"), folds=True),
        Column("ID", _text("id"), shrinks=True),
    ),
}
"""The columns of every listing command."""


def table(columns: Sequence[Column], rows: Iterable[Row]) -> str:
    """Plain aligned text, a title line first."""
    cells = [[column.title for column in columns], *([c.cell(row) for c in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in cells
    )


def listing(command: str, rows: list[Row]) -> None:
    """Print the rows of a listing command: drawn on a terminal, plain otherwise."""
    columns = LISTINGS[command]
    if sys.stdout.isatty():
        from p2pd.cli.drawing import draw_table

        draw_table(columns, rows)
    else:
        print(table(columns, rows))


def status(answer: Row) -> str:
    """What ``status`` says, one line a key."""
    keys = [key for key in answer if key not in ("event", "problems")]
    width = max((len(key) for key in keys), default=0)
    lines = [f"{escape(key):<{width}}  {escape(str(answer[key]))}" for key in keys]
    problems = answer.get("problems")
    return "\n".join(
        [*lines, *(f"problem: {escape(str(p))}" for p in (problems if isinstance(problems, list) else []))]
    )


def received(answer: Row) -> str:
    """The result line of ``req``."""
    name, path = escape(str(answer.get("name"))), escape(str(answer.get("path")))
    sources = [s for s in answer.get("sources") or [] if isinstance(s, dict) and s.get("bytes")]
    if not sources:
        return f"{name} is here: {path}"
    took = answer.get("seconds")
    shares = ", ".join(f"{escape(str(s.get('name')))} {size(s['bytes'])}" for s in sources)
    time = f" in {took:.1f} s" if isinstance(took, int | float) else ""
    return f"received {name}, {size(answer.get('size'))}{time} ({shares}): {path}"


def failure(message: str, details: Row) -> str:
    """An error for standard error: the sentence, then the contents or daemons to choose from."""
    lines = [f"p2pctl: {escape(message)}"]
    variants, daemons = details.get("variants"), details.get("daemons")
    if isinstance(variants, list) and variants:
        columns = (
            Column("ID", _text("id")),
            Column("SIZE", _size("size"), right=True),
            Column("HELD BY", _holders),
        )
        lines.append(table(columns, (v for v in variants if isinstance(v, dict))))
    if isinstance(daemons, list) and daemons:
        chosen = (
            Column("ROLE", _text("role")),
            Column("NAME", _text("name"), folds=True),
            Column("PORT", _text("port"), right=True),
            Column("SOCKET", _text("socket")),
        )
        lines.append(table(chosen, (d for d in daemons if isinstance(d, dict))))
    return "\n".join(lines)


def _holders(row: Row) -> str:
    holders = row.get("holders")
    if not isinstance(holders, list):
        return "-" if holders is None else escape(str(holders))
    return ", ".join(escape(str(h.get("name") if isinstance(h, dict) else h)) for h in holders)
