from __future__ import annotations

import pytest

from soak.run import Plan


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("soak", "the long run")
    group.addoption("--times", type=int, default=1, metavar="N", help="N times as long")
    group.addoption("--minutes", type=float, default=0.0, metavar="M", help="M minutes at least")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A longer run has two halves: with the default number of handler threads, and with two."""
    times = metafunc.config.getoption("times", 1)
    minutes = metafunc.config.getoption("minutes", 0.0)
    plans = [Plan()]
    if times > 1 or minutes:
        rounds, minutes = Plan.rounds * times // 2, minutes / 2
        plans = [
            Plan(max(rounds, Plan.rounds), minutes=minutes),
            Plan(max(rounds, Plan.rounds), minutes=minutes, threads="2", hasty=True),
        ]
    metafunc.parametrize("plan", plans, ids=[plan.threads for plan in plans])
