"""The results as a picture: a bar for each contender, from the slowest round to the fastest a line."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.musts import column
from benchmarks.report import SIDE_BY_SIDE, size_text

OURS, OTHERS, LIMIT = "#1b6ca8", "#b8c4ce", "#d9d4c3"


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the picture; its kind is told by the path's suffix."""
    parts = {name: part for name, part in results["parts"].items() if name in SIDE_BY_SIDE}
    most = max(len(part["contenders"]) for part in parts.values())
    # The same results give the same file.
    with mpl.rc_context({"svg.hashsalt": "p2pd", "font.size": 10}):
        height = (0.42 * most + 1.1) * len(parts)
        engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        figure = Figure(figsize=(9, height), layout=engine, facecolor="white")
        for number, (name, part) in enumerate(parts.items()):
            axes = figure.add_subplot(len(parts), 1, number + 1)
            axes.set_title(f"{SIDE_BY_SIDE[name]}, {size_text(part['size'])}, whole commands", loc="left")
            _bars(axes, part)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def _bars(axes: Any, part: dict[str, Any]) -> None:
    titles, medians, low, high, colours = [], [], [], [], []
    for key, contender in part["contenders"].items():
        if key == "p2pd-asked":
            continue  # a check rather than a contender
        speeds = [part["size"] / seconds / 1e6 for seconds in column(part, key, "seconds")]
        titles.append(contender["title"])
        medians.append(statistics.median(speeds))
        low.append(medians[-1] - min(speeds))
        high.append(max(speeds) - medians[-1])
        colours.append(OURS if key.startswith("p2pd") else LIMIT if key.startswith("raw") else OTHERS)
    places = range(len(titles))
    axes.barh(places, medians, xerr=(low, high), color=colours, height=0.66, ecolor="#333333", capsize=3)
    axes.set_yticks(places, titles)
    axes.invert_yaxis()
    axes.set_xlabel("MB/s: median of the rounds; the line goes from the slowest to the fastest")
    reach = max(median + more for median, more in zip(medians, high, strict=True))
    axes.set_xlim(0, reach * 1.12)
    for place, median, more in zip(places, medians, high, strict=True):
        axes.text(median + more + reach * 0.012, place, f"{median:,.0f}", va="center", ha="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
