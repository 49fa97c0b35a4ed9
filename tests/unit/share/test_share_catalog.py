"""The catalogue of what is offered: many files of one content."""

from __future__ import annotations

from p2pd.model import FileId
from p2pd.share.catalog import Catalog
from p2pd.share.hashing import StatKey
from p2pd.share.telling import Found

EMPTY = FileId("0" * 64)


def found(number: int, file_id: FileId | None = EMPTY) -> Found:
    return Found(b"%d" % number, str(number), StatKey(1, number, 0, 0, 0), 65536, file_id)


def test_equal_files_stand_for_one_another() -> None:
    catalog = Catalog(lambda name, quietly: None)
    assert catalog.holder(EMPTY) is None
    for number in range(3):
        catalog.put(found(number))
    assert catalog.holder(EMPTY) == ("0", 65536)
    catalog.remove(b"0")
    assert catalog.holder(EMPTY) == ("1", 65536)
    catalog.put(found(1, FileId("1" * 64)), replace=True)
    assert catalog.holder(EMPTY) == ("2", 65536)
    assert catalog.holder(FileId("1" * 64)) == ("1", 65536)
    catalog.remove(b"2")
    assert catalog.holder(EMPTY) is None
    catalog.remove(b"1")
    assert catalog.holder(FileId("1" * 64)) is None


def test_one_more_of_many_equal_files_copies_nothing() -> None:
    catalog = Catalog(lambda name, quietly: None)
    for number in range(10):
        catalog.put(found(number))
    kept = catalog._holders[EMPTY]
    for number in range(10, 1000):
        catalog.put(found(number))
    for number in range(500):
        catalog.remove(b"%d" % number)
    assert catalog._holders[EMPTY] is kept
    assert len(kept) == 500
