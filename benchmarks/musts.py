"""What p2pd has to reach, what it should reach, and the figures that are held against these.

A ratio is the median of the ratios of each round: its runs are seconds apart, so a
machine that is slower for a while is slower for both sides of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import attrs

from benchmarks.files import MIB

Json = dict[str, Any]


@attrs.frozen
class Must:
    """``most``: figures above it miss it; else figures below."""

    key: str
    part: str
    title: str
    must: float
    aim: float
    unit: str
    most: bool = False

    def met(self, figure: float) -> bool:
        return figure <= self.must if self.most else figure >= self.must

    def reached(self, figure: float) -> bool:
        """The aim, too."""
        return figure <= self.aim if self.most else figure >= self.aim


MUSTS: Sequence[Must] = (
    Must("over-curl", "memory", "one holder, over curl from nginx", 1.3, 1.8, "times"),
    Must("over-rsync", "memory", "one holder, over rsync daemon", 1.4, 2, "times"),
    Must("over-libtorrent", "memory", "one holder, over libtorrent", 2, 3, "times"),
    Must("four-over-one", "memory", "four holders on the same cores, over one holder", 0.9, 1, "times"),
    Must("cpu", "memory", "processor time of both sides, over nginx plus curl", 1.1, 0.8, "times", most=True),
    Must("rss-memory", "memory", "peak RSS of either daemon, file in memory", 120, 90, "MiB", most=True),
    Must("rss-small", "rss", "the same, from disk, hashed before", 120, 90, "MiB", most=True),
    Must("rss-big", "rss", "the same, a large file from disk, hashed before", 120, 90, "MiB", most=True),
    Must(
        "disk-status", "disk", "longest answer to `status` while sending and receiving, cold disk",
        50, 50, "ms", most=True,
    ),
    Must("version", "client", "`p2pctl version`, whole process", 150, 70, "ms", most=True),
    Must("status", "client", "`p2pctl --json status`, whole process", 150, 70, "ms", most=True),
    Must("first-status", "files", "many files, first start, to `status`", 1, 0.5, "s", most=True),
    Must("second-status", "files", "many files, second start, to `status`", 1, 0.5, "s", most=True),
    Must("second-req", "files", "many files, second start, to a known file served", 1, 0.5, "s", most=True),
    Must("hashing", "hashing", "hashing in the background, per second of processor", 2, 4, "GB"),
    Must("hashing-status", "hashing", "longest answer to `status` meanwhile", 50, 50, "ms", most=True),
)  # fmt: skip


@attrs.frozen
class Verdict:
    """``figure``: None where it was not measured."""

    must: Must
    figure: float | None

    @property
    def missed(self) -> bool:
        return self.figure is not None and not self.must.met(self.figure)


def paired(one: Sequence[float], other: Sequence[float]) -> float:
    """The median of the ratios of each round."""
    return statistics.median(first / second for first, second in zip(one, other, strict=True))


def column(part: Json, contender: str, key: str) -> list[Any]:
    """What the rounds of a contender say; empty where it was not there."""
    return [each[key] for each in part["contenders"].get(contender, {}).get("rounds", [])]


def cpu(part: Json, contender: str) -> list[float]:
    """Processor seconds of both sides in each round."""
    return [
        sender + receiver
        for sender, receiver in zip(
            column(part, contender, "sender_cpu"), column(part, contender, "receiver_cpu"), strict=True
        )
    ]


def longest(probes: Sequence[Json | None], figure: str = "max") -> list[float]:
    """Of each daemon in each run that was asked for `status`: seconds."""
    return [answers[figure] for each in probes if each for name, answers in each.items() if name != "late"]


def figures(parts: Json) -> dict[str, float]:
    """Everything that was measured and that a must is about."""
    found: dict[str, float] = {}
    if "memory" in parts:
        part = parts["memory"]
        ours = column(part, "p2pd", "seconds")
        if ours:
            for rival in ("curl", "rsync", "libtorrent"):
                if theirs := column(part, rival, "seconds"):
                    found[f"over-{rival}"] = paired(theirs, ours)
            if four := column(part, "p2pd-4", "seconds"):
                found["four-over-one"] = paired(ours, four)
            if any(theirs := cpu(part, "curl")):
                found["cpu"] = paired(cpu(part, "p2pd"), theirs)
            peaks = column(part, "p2pd", "sender_rss") + column(part, "p2pd", "receiver_rss")
            found["rss-memory"] = max(peaks) / MIB
    if "disk" in parts and (answers := longest(column(parts["disk"], "p2pd-asked", "probes"))):
        found["disk-status"] = max(answers) * 1000
    for size, sides in parts.get("rss", {}).items():
        found[f"rss-{size}"] = max(sides["sender_rss"], sides["receiver_rss"]) / MIB
    for name, seconds in parts.get("client", {}).items():
        found[name] = statistics.median(seconds) * 1000
    if "files" in parts:
        for kind in ("first", "second"):
            for what in ("status", "req"):
                found[f"{kind}-{what}"] = statistics.median(each[what] for each in parts["files"][kind])
    if "hashing" in parts:
        part = parts["hashing"]
        found["hashing"] = statistics.median(part["size"] / each["cpu"] for each in part["alone"]) / 1e9
        answers = longest([each["probes"] for each in part["asked"] + part["start"]])
        found["hashing-status"] = max(answers) * 1000
    return found


def judge(parts: Json) -> list[Verdict]:
    """Every must, in order."""
    found = figures(parts)
    return [Verdict(must, found.get(must.key)) for must in MUSTS]
