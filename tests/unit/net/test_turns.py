"""How long turns are: of the thread that asks, taken back, and as they were where others chose them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.python.threadpool import ThreadPool

from p2pd.net import turns
from p2pd.peer import tap
from p2pd.peer.service import PeerService
from p2pd.share.cache import ManifestCache
from p2pd.share.hashers import HashPool
from p2pd.share.paths import ShareRoot
from p2pd.share.writing import Writer
from tests.unit.net.test_rounds import Reactor

LONG = round(turns.LONG * 1e9)
T = TypeVar("T")


def known() -> bool:
    """Whether this system has turns that a thread may choose."""
    with contextlib.suppress(OSError):
        return bool(turns.attributes().runtime)
    return False


needs_turns = pytest.mark.skipif(not known(), reason="needs Linux 6.12 on a machine whose numbers are known")


def in_thread(work: Callable[[], T]) -> T:
    """What ``work`` gives in a thread of its own, which has the usual turns and policy at first."""
    found: list[T | BaseException] = []

    def run() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            turns.give_back()
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (result,) = found
    if isinstance(result, BaseException):
        raise result
    return result


def slice_now() -> int:
    """Nanoseconds of the turns of the thread that asks."""
    return int(turns.attributes().runtime)


def set_slice(nanoseconds: int) -> None:
    """As somebody else would."""
    has = turns.attributes()
    turns._set(has, nanoseconds)


@needs_turns
def test_turns_are_long_until_they_are_the_usual_ones_again() -> None:
    def work() -> None:
        usual, nice = slice_now(), os.getpriority(os.PRIO_PROCESS, 0)
        assert turns.take() == usual
        assert slice_now() == LONG
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
        assert turns.take() is None, "it has them"
        assert turns.give_back(usual)
        assert slice_now() == usual
        assert not turns.give_back(usual), "it has not got them"
        assert os.getpriority(os.PRIO_PROCESS, 0) == nice

    in_thread(work)


@needs_turns
def test_only_the_thread_that_asks_has_them() -> None:
    usual = in_thread(slice_now)
    asked, looked = threading.Event(), threading.Event()

    def run() -> None:
        turns.take()
        asked.set()
        looked.wait(30)

    thread = threading.Thread(target=run)
    thread.start()
    assert asked.wait(30)
    assert in_thread(slice_now) == usual
    looked.set()
    thread.join()


@needs_turns
def test_a_length_that_somebody_else_chose_comes_back() -> None:
    def work() -> None:
        set_slice(1_000_000)
        before = turns.take()
        assert before == 1_000_000
        assert turns.give_back(before)
        assert slice_now() == 1_000_000

    in_thread(work)


@needs_turns
def test_longer_ones_that_somebody_else_chose_stay() -> None:
    def work() -> None:
        set_slice(2 * LONG)
        assert turns.take() is None
        assert not turns.give_back()
        assert slice_now() == 2 * LONG

    in_thread(work)


@needs_turns
def test_what_somebody_else_chose_meanwhile_stays() -> None:
    def work() -> None:
        before = turns.take()
        assert before is not None
        set_slice(5_000_000)
        assert not turns.give_back(before)
        assert slice_now() == 5_000_000

    in_thread(work)


@pytest.mark.parametrize("policy", [os.SCHED_IDLE, os.SCHED_BATCH])
def test_another_policy_stays(policy: int) -> None:
    def work() -> None:
        os.sched_setscheduler(0, policy, os.sched_param(0))
        assert turns.take() is None
        assert not turns.give_back()
        assert os.sched_getscheduler(0) == policy

    in_thread(work)


@needs_turns
@pytest.mark.parametrize("policy", [os.SCHED_IDLE, os.SCHED_BATCH])
def test_another_policy_that_was_set_meanwhile_stays(policy: int) -> None:
    def work() -> None:
        before = turns.take()
        assert before is not None
        os.sched_setscheduler(0, policy, os.sched_param(0))
        turns.give_back(before)
        assert os.sched_getscheduler(0) == policy

    in_thread(work)


@needs_turns
def test_hashing_has_the_usual_turns_though_it_was_started_by_who_has_long_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = in_thread(slice_now)
    seen: list[int] = []
    real = turns.give_back

    def give_back(before: int = 0) -> bool:
        done = real(before)
        seen.append(slice_now())
        return done

    def work() -> None:
        turns.take()
        monkeypatch.setattr(turns, "give_back", give_back)
        pool = HashPool(root, cache, lambda jobs: None)
        pool._start()
        pool.stop(30)
        monkeypatch.setattr(turns, "give_back", real)

    root, cache = ShareRoot.open(str(tmp_path)), ManifestCache(str(tmp_path / "cache.db"))
    in_thread(work)
    cache.close()
    root.close()
    assert seen == [usual] * 3


@needs_turns
def test_threads_of_the_pool_and_the_writer_have_the_usual_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = in_thread(slice_now)
    seen: list[int] = []

    monkeypatch.setattr(Writer, "_run", lambda self: seen.append(slice_now()))
    options = tap.Options()
    options.parseOptions(["--port", "0", "--dir", str(tmp_path), "--no-manager"])
    reactor: Any = Reactor()
    reactor.callFromThread = lambda work: work()
    pool = ThreadPool(1, 1)
    reactor.getThreadPool = lambda: pool
    service = PeerService(reactor, options.config())

    def work() -> None:
        turns.take()
        service.writer._gathered = [None]  # type: ignore[list-item]
        service.writer.flush()
        assert service.writer._thread is not None
        service.writer._thread.join(30)
        pool.start()
        service.in_thread(lambda: seen.append(slice_now()))
        pool.stop()
        assert slice_now() == LONG, "who starts them keeps his own"

    in_thread(work)
    assert seen == [usual, usual]


@pytest.mark.parametrize("refuses", ["set", "get", "machine", "old"])
def test_where_the_system_does_not_let_us_nothing_happens(
    refuses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = turns.NUMBERS.get(platform.machine())
    if refuses == "machine":
        monkeypatch.setattr("platform.machine", lambda: "vax")
    elif numbers is None:
        pytest.skip("there is nothing to be refused here")
    else:
        real, put = turns._LIBC.syscall, numbers[0]

        class Libc:
            @staticmethod
            def syscall(number: int, *args: object) -> int:
                if refuses == "old":  # before Linux 6.12 there is no length
                    assert number != put
                    done = int(real(number, *args))
                    ctypes.cast(args[1], ctypes.POINTER(turns.Attributes)).contents.runtime = 0  # type: ignore[arg-type]
                    return done
                return -1 if (number == put) == (refuses == "set") else int(real(number, *args))

        monkeypatch.setattr(turns, "_LIBC", Libc)

    def work() -> None:
        assert turns.take() is None
        assert not turns.give_back()

    in_thread(work)
