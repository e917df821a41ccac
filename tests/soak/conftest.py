from __future__ import annotations

import pytest

from soak.run import Plan


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("soak", "the long run")
    group.addoption(
        "--times", type=int, default=1, metavar="N", help="so many times 1,000,000 lines"
    )
    group.addoption("--minutes", type=float, metavar="M", help="as many lines as that takes")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A longer run has two parts: with the default number of handler threads and with two."""
    times = metafunc.config.getoption("times", 1)
    minutes = metafunc.config.getoption("minutes", None)
    longer = times > 1 or minutes is not None
    plans = [
        Plan(
            rounds=Plan.rounds * times,
            minutes=minutes and minutes / 2,
            threads=threads,
            hasty=threads == "2",
        )
        for threads in (("auto", "2") if longer else ("auto",))
    ]
    metafunc.parametrize("plan", plans, ids=[plan.threads for plan in plans])
