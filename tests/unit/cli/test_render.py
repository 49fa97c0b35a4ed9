"""Text for people: units, and nothing that a hostile name could do."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.cli import render
from p2pd.text import escape

hostile = st.text(
    st.one_of(
        st.characters(), st.sampled_from("\x1b\x9b\u202e\u2066\u200b\u200d\ufeff\n\r\x85\u2028\udc80\u3164")
    )
)


@pytest.mark.fault(30)
@given(hostile)
def test_nothing_escapes_the_escaping(text: str) -> None:
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Cn") for char in shown)
    shown.encode("utf-8")


@given(hostile)
def test_escaping_twice_changes_nothing(text: str) -> None:
    assert escape(escape(text)) == escape(text)


def test_plain_names_stay_as_they_are() -> None:
    for name in ("a b.bin", "größe/naïve.txt", "日本語", "back\\slash", "[bold]"):
        assert escape(name) == name


@pytest.mark.fault(30)
@given(st.dictionaries(st.sampled_from(["name", "id", "host", "state", "pieces"]), hostile))
def test_one_row_is_one_line(row: dict[str, object]) -> None:
    row["sources"] = [{"name": value} for value in row.values()]
    for columns in render.LISTINGS.values():
        lines = render.table(columns, [row]).splitlines()
        assert len(lines) == 2
        assert all(line.isprintable() for line in lines)


@given(hostile, hostile)
def test_failures_are_printable(message: str, name: str) -> None:
    details = {
        "variants": [{"id": name, "size": 1, "holders": [name, {"name": name}]}],
        "daemons": [{"role": "peer", "name": name, "port": 1, "socket": name}],
    }
    assert all(line.isprintable() for line in render.failure(message, details).split("\n"))


@pytest.mark.parametrize(
    "message",
    [
        "a different f is here already: --replace it, or choose --output",
        "f is offered with another: cancel it",
    ],
)
def test_only_the_daemon_says_what_to_do_about_a_conflict(message: str) -> None:
    row = {"id": "1" * 64, "size": 1, "holders": ["ann"]}
    said = render.failure(message, {"variants": [row]}).splitlines()
    assert [said[0], len(said)] == [f"p2pctl: {message}", 3]


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | hostile, st.lists, max_leaves=5)
)
def test_wrong_types_do_not_break_the_tables(value: object) -> None:
    keys = ("name", "size", "id", "bytes", "rate", "eta", "sources", "held", "count", "piece_size", "port")
    for columns in render.LISTINGS.values():
        render.table(columns, [dict.fromkeys(keys, value)])


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (268_435_456, "268.4 MB"),
        (999_960, "1.0 MB"),
        (5 * 10**15, "5000.0 TB"),
        (None, "-"),
        ("x", "-"),
    ],
)
def test_sizes(count: object, shown: str) -> None:
    assert render.size(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0:00"), (42.4, "0:42"), (3723, "1:02:03"), (None, "-"), (float("nan"), "-")]
)
def test_times(count: object, shown: str) -> None:
    assert render.seconds(count) == shown


def test_percentages() -> None:
    assert render.percent({"bytes": 0, "size": 0}) == "100%"
    assert render.percent({"bytes": 999, "size": 1000}) == "99%"
    assert render.percent({"bytes": 1, "size": None}) == "-"
