"""The fuzzer's seeds pass, and there is one for every message."""

from __future__ import annotations

import random

import pytest

from p2pd.wire.codec import Decoder, decode_line
from tests.fuzz.seeds import CORPUS, DIRECTIONS, message, seeds
from tests.fuzz.targets import TARGETS, one

NAMES = sorted(path.name for path in CORPUS.iterdir())


def test_they_are_what_the_messages_are_now() -> None:
    assert {name: (CORPUS / name).read_bytes() for name in NAMES} == seeds()


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_passes(name: str) -> None:
    one((CORPUS / name).read_bytes())


@pytest.mark.parametrize("letter", [letter.decode() for letter in DIRECTIONS])
def test_every_message_is_decoded_from_its_seed(letter: str) -> None:
    for verb, cls in DIRECTIONS[letter.encode()].items():
        decoder = Decoder(DIRECTIONS[letter.encode()])
        decoder.receive((CORPUS / f"{letter}-{verb.replace(' ', '_')}").read_bytes()[2:])
        assert decoder.next_event() == message(cls)


def test_seeds_that_are_damaged_are_refused_in_order() -> None:
    """A short run of what the fuzzer does for long, the same every time."""
    source = random.Random(1)
    for _ in range(2000):
        data = bytearray((CORPUS / source.choice(NAMES)).read_bytes())
        for _ in range(source.randint(1, 4)):
            at = source.randrange(1, len(data) + 1)
            data[at : at + source.randint(0, 3)] = source.randbytes(source.randint(0, 3))
        one(bytes(data))


def test_every_target_has_a_seed() -> None:
    assert {name[:1].encode() for name in NAMES} == set(TARGETS)


def test_a_property_that_fails_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.targets.decode_line", lambda line, table: decode_line(b"ping {}", table))
    with pytest.raises(AssertionError):
        one((CORPUS / "p-req").read_bytes())
