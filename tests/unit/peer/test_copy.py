"""A file that is open to be sent: whether it is in memory."""

from __future__ import annotations

import errno
import os

import pytest

from p2pd.peer.stock import SAMPLE, Copy


class Disk:
    """Answers for the file system: by default all is in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: OSError | None = None
        self.looked_at: list[int] = []
        monkeypatch.setattr(os, "preadv", self.read)

    def read(self, fd: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        assert (fd, flags) == (77, os.RWF_NOWAIT)
        self.looked_at.append(offset)
        if self.error is not None:
            raise self.error
        return sum(map(len, buffers))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def copy() -> Copy:
    nothing: object = None
    return Copy("a", nothing, 77, nothing, nothing, lambda: 1)  # type: ignore[arg-type]


def test_a_range_is_looked_at_in_steps_and_at_its_end(disk: Disk, copy: Copy) -> None:
    assert copy.in_memory(1000, 2 * SAMPLE + 10)
    assert disk.looked_at == [1000, 1000 + SAMPLE, 1000 + 2 * SAMPLE, 1000 + 2 * SAMPLE + 9]


def test_what_would_have_to_be_read_from_the_disk_is_not_in_memory(disk: Disk, copy: Copy) -> None:
    disk.error = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    assert not copy.in_memory(0, 1)
    assert not copy.in_memory(0, 1), "it is looked at again"
    disk.error = None
    assert copy.in_memory(0, 1)


def test_a_file_system_that_cannot_tell_is_asked_once(disk: Disk, copy: Copy) -> None:
    disk.error = OSError(errno.EOPNOTSUPP, "Operation not supported")
    assert copy.in_memory(0, SAMPLE)
    assert copy.in_memory(SAMPLE, SAMPLE)
    assert disk.looked_at == [0]


def test_one_that_failed_once_is_asked_again(disk: Disk, copy: Copy) -> None:
    disk.error = OSError(errno.EIO, "Input/output error")
    assert copy.in_memory(0, 1), "sending tells of the error"
    disk.error = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    assert not copy.in_memory(0, 1)
