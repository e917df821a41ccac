from __future__ import annotations

from pathlib import Path

import pytest
from support import Start

from soak.run import MIB, Plan, Soak


@pytest.mark.long
def test_a_long_run_leaks_nothing_and_loses_no_byte(
    start: Start, tmp_path: Path, plan: Plan
) -> None:
    """Open files, threads and memory stay as they were, and every count is the clients'."""
    soak = Soak(start, tmp_path, plan)
    soak.run()
    soak.summarize()
    soak.promises.in_order("memory grows by less than 1 MiB", soak.growth, MIB)
    if soak.promises.broken:
        pytest.fail("\n".join(soak.promises.lines()), pytrace=False)
