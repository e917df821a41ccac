from __future__ import annotations

from pathlib import Path

from soak.run import Plan, Soak
from support import Start

SHORT = Plan(
    rounds=1,
    connections=2_000,
    lines=20_000,
    threads="2",
    hasty=True,
    scrape_seconds=0.01,
    drain_seconds=0.5,
)


def test_a_short_run_keeps_every_promise_of_the_long_one(start: Start, tmp_path: Path) -> None:
    """Open files and threads stay as they were, and every count is the clients'."""
    soak = Soak(start, tmp_path, SHORT)
    soak.run()
    assert not soak.promises.lines()
