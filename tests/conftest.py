"""Fixtures for all tests, and the rule that nothing is skipped where everything is required."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.rig import Host

REQUIRE_ALL = os.environ.get("P2PD_REQUIRE_ALL") == "1"

settings.register_profile("p2pd", deadline=None)  # a busy machine is no fault
settings.load_profile("p2pd")


def _missing(tool: str) -> str | None:
    """Why a test that needs ``tool`` cannot run here, or None."""
    if tool == "root":
        return None if os.geteuid() == 0 else "root is needed"
    if tool.startswith("lib"):
        try:
            ctypes.CDLL(tool)
        except OSError:
            return f"{tool} is needed"
        return None
    return None if shutil.which(tool) else f"{tool} is needed"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for tool in mark.args:
            why = _missing(tool)
            if why is not None:
                if REQUIRE_ALL:
                    pytest.fail(f"{why}, and P2PD_REQUIRE_ALL=1 forbids to skip")
                pytest.skip(why)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if REQUIRE_ALL and (report.skipped or hasattr(report, "wasxfail")):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped or expected to fail, and P2PD_REQUIRE_ALL=1 forbids that"


def pytest_configure() -> None:
    # A shell without job control starts what runs in the background with this ignored, which whatever
    # is started here would inherit: there would be nothing to interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_deselected(items: list[pytest.Item]) -> None:
    if REQUIRE_ALL and items:
        pytest.exit(f"{len(items)} tests deselected, and P2PD_REQUIRE_ALL=1 forbids that", returncode=1)


@pytest.fixture
def host() -> Iterator[Host]:
    """A machine of the test's own; its daemons are stopped afterwards."""
    made = Host()
    yield made
    made.close()
