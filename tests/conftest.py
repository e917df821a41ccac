from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support import ROOT, Clock, Echod, Start
from support.running import Running, Timed

from echod.config.runtime import raise_open_file_limit

# For bench and the tools; echod itself is found before, where it is installed.
sys.path += [str(ROOT), str(ROOT / "tools")]

hypothesis.settings.register_profile("no clock", deadline=None)
hypothesis.settings.load_profile("no clock")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--against",
        metavar="HOST:PORT",
        help="where the recorded conversations are held instead, with a server whose prefix is one",
    )


def pytest_configure() -> None:
    """Raises the open-file limit for many clients, and resets signals to those of a terminal.
    Signals that a background job or nohup ignores would be ignored by children too.
    """
    raise_open_file_limit()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test has failed, unless it is optional: its tool may not be had."""
    report = yield
    if report.skipped and os.environ.get("CI") and "optional: " not in str(report.longrepr):
        report.outcome = "failed"
    return report


def make_starter(directory: Path, started: list[Echod]) -> Start:
    def start(*options: str, ports: str = "0", prefix: str = "one", **more: Any) -> Echod:
        own = directory / f"echod-{len(started)}"
        own.mkdir()
        process = Echod(own, [ports, prefix, "--metrics-port", "0", *options], **more)
        started.append(process)
        return process

    return start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts echod processes on free ports; all have ended when the test has."""
    started: list[Echod] = []
    yield make_starter(tmp_path, started)
    for process in started:
        process.close()


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The same for processes that all tests of a module look at."""
    started: list[Echod] = []
    yield make_starter(tmp_path_factory.mktemp("once"), started)
    for process in started:
        process.close()


@pytest.fixture(scope="session")
def shared_echod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echod]:
    """One process for tests that leave no trace in it but counts."""
    started: list[Echod] = []
    start = make_starter(tmp_path_factory.mktemp("shared"), started)
    yield start(ports="0,0,0")
    started[0].stop()
    started[0].close()


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """For processes whose time the test moves."""
    return Clock(tmp_path / "clock")


@pytest.fixture
def running() -> Iterator[Running]:
    """A service in this process."""
    service = Running()
    yield service
    service.close()


@pytest.fixture
def timed() -> Iterator[Callable[..., Timed]]:
    """Makes services in this process whose clock stands still until it is moved."""
    services: list[Timed] = []

    def make(**flags: str) -> Timed:
        services.append(Timed(**flags))
        return services[-1]

    yield make
    for service in services:
        service.close()
