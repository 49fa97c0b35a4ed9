"""The results as tables in a page: between two marks, what stands around them stays."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.files import GIB, MIB
from benchmarks.measure import BenchError
from benchmarks.musts import Verdict, column, judge, longest, paired

Json = dict[str, Any]
MARK = "bench: made by `make bench`"


def marks(mark: str) -> tuple[str, str]:
    """The two comments between which a page's tables stand."""
    return f"<!-- {mark}, do not edit -->", f"<!-- /{mark.partition(':')[0]} -->"


BEGIN, END = marks(MARK)
SIDE_BY_SIDE = {"memory": "In memory", "disk": "From a disk with a cold cache"}


def insert(page: Path, text: str, mark: str = MARK) -> None:
    """Put ``text`` between two marks of a page; BenchError where it has none."""
    whole = page.read_text("utf-8")
    opening, closing = marks(mark)
    before, begin, rest = whole.partition(opening)
    _, end, after = rest.partition(closing)
    if not (begin and end):
        raise BenchError(f"{page} has no marks to write between")
    page.write_text(f"{before}{opening}\n\n{text}\n{closing}{after}", "utf-8")


def render(results: Json, picture: str | None) -> str:
    """All tables, as Markdown. ``picture``: its path from the page."""
    parts = results["parts"]
    blocks = [_machine(results), _musts(judge(parts))]
    if picture and any(part in parts for part in SIDE_BY_SIDE):
        blocks.append(f"![Speed of each contender, in memory and from disk]({picture})")
    for name, title in SIDE_BY_SIDE.items():
        if name in parts:
            blocks += [f"### {title}", *_side_by_side(parts[name])]
    others: dict[str, Callable[[Json], str]] = {
        "rss": _rss, "client": _client, "files": _files, "hashing": _hashing
    }  # fmt: skip
    for name, block in others.items():
        if name in parts:
            blocks.append(block(parts[name]))
    return "\n\n".join(blocks) + "\n"


def spread(values: Sequence[float], form: str) -> str:
    """The median, and the least and the most of them."""
    if len(values) == 1:
        return format(values[0], form)
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def verdict_line(verdict: Verdict) -> str:
    """For a terminal."""
    must, figure = verdict.must, verdict.figure
    said = "not measured" if figure is None else f"{figure:.3g} {must.unit}"
    bound = "at most" if must.most else "at least"
    return f"{must.title}: {said}; must be {bound} {must.must:g} {must.unit}"


def size_text(size: int) -> str:
    """GiB, or MiB for less than one."""
    return f"{size / GIB:.4g} GiB" if size >= GIB else f"{size / MIB:.4g} MiB"


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first hold figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _machine(results: Json) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rounds = results["rounds"]
    return (
        f"Measured on {results['date']}: {machine['cores']} cores of {machine['cpu']}, "
        f"{size_text(machine['memory'])} of memory, Linux {machine['kernel']}, Python {machine['python']}; "
        f"p2pd {machine['p2pd']}; {versions}. Counted rounds: {rounds}, after one that does not count; "
        "median (least to most)."
    )


def _musts(verdicts: Sequence[Verdict]) -> str:
    def rows() -> Iterator[Sequence[str]]:
        for verdict in verdicts:
            must, figure = verdict.must, verdict.figure
            if figure is None:
                said, word = "", "not measured"
            else:
                said = f"{figure:.3g} {must.unit}"
                word = "missed" if verdict.missed else "aim reached" if must.reached(figure) else "met"
            bound = "≤" if must.most else "≥"
            yield must.title, said, f"{bound} {must.must:g}", f"{bound} {must.aim:g}", word

    return table(["figure", "measured", "must", "aim", ""], rows())


def _side_by_side(part: Json) -> Iterator[str]:
    size = part["size"]
    pairs = {key: each["title"] for key, each in part["contenders"].items()}
    ours = column(part, "p2pd", "seconds")

    def rows() -> Iterator[Sequence[str]]:
        for key, title in pairs.items():
            seconds = column(part, key, "seconds")
            ratio = f"{paired(seconds, ours):.2f}" if ours and key != "p2pd" else ""
            yield (
                title,
                spread([size / each / 1e6 for each in seconds], ".0f"),
                ratio,
                *(
                    f"{statistics.median(column(part, key, f'{side}_cpu')) * GIB / size:.2f}"
                    for side in ("sender", "receiver")
                ),
                *(f"{max(column(part, key, f'{side}_rss')) / MIB:.0f}" for side in ("sender", "receiver")),
            )

    yield f"{size_text(size)}, {part['filesystem']}."
    yield table(
        [
            "whole command", "MB/s", "its time over p2pd's", "CPU s per GiB, sender", "receiver",
            "peak RSS MiB, sender", "receiver",
        ],
        rows(),
    )  # fmt: skip
    for key in ("p2pd", "p2pd-4"):
        seconds = [each for each in column(part, key, "data_seconds") if each]
        if seconds:
            rates = spread([size / each / 1e6 for each in seconds], ".0f")
            yield f"From the first request to the last byte, {pairs[key]}: {rates} MB/s."
    probes = column(part, "p2pd-asked", "probes")
    if probes:
        yield f"While the daemons send and receive, {_answers(probes)}."


def _answers(probes: Sequence[Json | None]) -> str:
    count = round(sum(longest(probes, "count")))
    p99, most = (max(longest(probes, figure)) * 1000 for figure in ("p99", "max"))
    late = max(each["late"] for each in probes if each) * 1000
    return (
        f"`status` was asked {count} times; of a run's answers 99 in 100 came within {p99:.1f} ms, "
        f"the longest took {most:.1f} ms (who asks was itself up to {late:.1f} ms late)"
    )


def _rss(part: Json) -> str:
    def rows() -> Iterator[Sequence[str]]:
        for each in part.values():
            sides = (f"{each[f'{side}_rss'] / MIB:.0f}" for side in ("sender", "receiver"))
            yield size_text(each["size"]), *sides, f"{each['size'] / each['seconds'] / 1e6:.0f}"

    head = ["one file from disk to disk", "peak RSS MiB, sender", "receiver", "MB/s, one run"]
    return f"### Memory of daemons that hash, send and receive one file\n\n{table(head, rows())}"


def _client(part: Json) -> str:
    rows = (
        (f"`p2pctl {words}`", spread([each * 1000 for each in part[name]], ".0f"))
        for name, words in (("version", "version"), ("status", "--json status"))
    )
    return f"### The client\n\n{table(['whole process, 20 runs', 'ms'], rows)}"


def _files(part: Json) -> str:
    def rows() -> Iterator[Sequence[str]]:
        for kind, title in (("first", "first, no hash known"), ("second", "second, every hash known")):
            starts = part[kind]
            yield (
                title,
                *(spread([each[what] for each in starts], ".2f") for what in ("status", "req")),
                spread([each["known"] for each in starts], ",.0f"),
            )

    head = ["start", "s until `status` answers", "s until a file is served", "files listed by then"]
    return f"### A share of {part['files']:,} files ({part['filesystem']})\n\n{table(head, rows())}"


def _hashing(part: Json) -> str:
    alone = part["alone"]
    per_cpu, wall = (
        spread([part["size"] / each[key] / 1e9 for each in alone], ".2f") for key in ("cpu", "seconds")
    )
    limit = spread([part["size"] / each["cpu"] / 1e9 for each in part["limit"]], ".2f")
    probes = [each["probes"] for each in part["asked"] + part["start"]]
    return (
        f"### Hashing in the background\n\nOf {size_text(part['size'])} in memory: {per_cpu} GB per second "
        f"of processor, where a loop that reads a MiB and hashes it has {limit} in the same minutes; "
        f"{wall} GB/s from the moment that the files appear. Meanwhile, and in a cold start, "
        f"{_answers(probes)}."
    )
