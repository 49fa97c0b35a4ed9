"""The command table: what is taken, what is refused, and that both ends agree."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.control import commands
from p2pd.errors import BY_CODE, UsageError

HEX = "0123456789abcdef" * 4
words = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=40)


@given(st.lists(words, min_size=1, max_size=8))
def test_what_the_client_joins_the_server_splits(line: list[str]) -> None:
    joined = commands.join(line)
    assert joined.count(b"\n") == 1
    assert commands.split(joined[:-1]) == line


@given(words)
def test_any_name_can_be_asked_for(name: str) -> None:
    line = commands.join(["req", "--no-wait", "--", name])
    args = commands.parse(commands.split(line[:-1]))
    assert (args.command, args.file, args.no_wait) == ("req", name, True)


@pytest.mark.parametrize("word", ["a\nb", "\udc80", "x" * 70_000])
def test_words_that_no_line_can_hold(word: str) -> None:
    with pytest.raises(UsageError):
        commands.join(["req", word])


def test_a_line_of_just_the_limit() -> None:
    assert len(commands.join(["req", "x" * (commands.MAX_LINE - 4)])) == commands.MAX_LINE + 1
    with pytest.raises(UsageError, match="longer"):
        commands.join(["req", "x" * (commands.MAX_LINE - 3)])


@pytest.mark.parametrize("line", [b"\xff", b"req 'a", b'req "a', b"req a\\"])
def test_lines_that_cannot_be_split(line: bytes) -> None:
    with pytest.raises(UsageError):
        commands.split(line)


def test_req_with_everything() -> None:
    line = f"req 'sub dir/a b.bin' --no-wait --id {HEX} --sha256 {HEX.upper()} --output b --replace"
    args = commands.parse(commands.split(f"{line} --from a b --from=c --timeout 1.5".encode()))
    assert args.file == "sub dir/a b.bin"
    assert args.no_wait
    assert args.replace
    assert (args.id, args.sha256, args.output) == (HEX, HEX, "b")
    assert args.from_ == ["a", "b", "c"]
    assert args.timeout == 1.5


def test_req_with_nothing() -> None:
    args = commands.parse(["req", "x"])
    assert (args.no_wait, args.replace, args.from_, args.timeout) == (False, False, [], 30.0)
    assert (args.id, args.sha256, args.output) == (None, None, None)
    again = commands.parse(["req", "--from", "a", "--no-wait", "y"])
    assert again.from_ == ["a"]
    assert commands.parse(["req", "x"]).from_ == []  # the default list is nobody's to fill


@pytest.mark.parametrize(
    ("line", "file", "names"),
    [
        (["--from", "a", "f"], "f", ["a"]),
        (["--from", "a", "b", "f"], "f", ["a", "b"]),
        (["--from", "a", "f", "--from", "b"], "f", ["a", "b"]),
        (["--from", "a", "--", "f"], "f", ["a"]),
    ],
)
def test_the_file_may_stand_behind_the_sources(line: list[str], file: str, names: list[str]) -> None:
    args = commands.parse(["req", *line])
    assert (args.file, args.from_) == (file, names)


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["nonsense"],
        ["req"],
        ["req", "a", "b"],
        ["req", "-rf"],
        ["req", "--from", "a"],
        ["req", "--from", "a", "b", "--from", "c", "d"],
        ["req", "x", "--no"],  # no abbreviations
        ["req", "x", "--id", HEX.upper()],
        ["req", "x", "--id", HEX[:12]],
        ["req", "x", "--sha256", HEX + "0"],
        ["req", "x", "--sha256", "g" * 64],
        ["req", "x", "--timeout", "0"],
        ["req", "x", "--timeout", "-1"],
        ["req", "x", "--timeout", "nan"],
        ["req", "x", "--timeout", "inf"],
        ["req", "x", "--timeout", "1_0"],
        ["req", "x", "--timeout", "１"],
        ["req", "x", "--timeout", "9" * 400],
        ["cancel"],
        ["cancel", "a", "b"],
        ["peers", "now"],
        ["help", "nonsense"],
        ["req", "--help"],
    ],
)
def test_refused(line: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        commands.parse(line)
    assert str(caught.value)


@given(st.lists(words, max_size=5))
def test_nothing_but_a_usage_error_comes_of_any_line(line: list[str]) -> None:
    for name in commands.COMMANDS:
        try:
            args = commands.parse([name, *line])
        except UsageError:
            continue
        assert args.command == name
        assert math.isfinite(getattr(args, "timeout", 1.0))


def test_a_manager_has_its_own_commands() -> None:
    assert commands.parse(["peers"], "manager").command == "peers"
    with pytest.raises(UsageError, match="manager"):
        commands.parse(["req", "x"], "manager")
    assert "transfers" not in commands.help_text(role="manager")


def test_help_names_every_command_option_and_status() -> None:
    text = commands.help_text()
    for name, command in commands.COMMANDS.items():
        assert name in text
        for argument in command.arguments:
            assert argument.flag in commands.help_text(name) or argument.metavar in commands.help_text(name)
    statuses = {code: status for status, code, _ in commands.EXIT_STATUSES if code}
    assert statuses == {code: cls.exit_status for code, cls in BY_CODE.items()}
