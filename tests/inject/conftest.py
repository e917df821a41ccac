from __future__ import annotations

from pathlib import Path

import pytest

from inject.injector import compiled


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("inject", "faults by machine")
    group.addoption("--call", default="", help="only calls whose name begins with this")
    group.addoption("--minutes", type=float, default=240.0, help="longest time of a campaign")
    group.addoption("--table", help="a file that gets the tables")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The injector, compiled for this interpreter's C library."""
    return compiled(tmp_path_factory.mktemp("injector"))
