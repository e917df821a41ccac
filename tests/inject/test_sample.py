"""A fixed sample of what ``make inject`` does."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from inject.campaign import Campaign
from inject.faults import Fault, every_fault

SAMPLE, PARTS = 200, 10


def sample(faults: list[Fault]) -> list[Fault]:
    """The same ones, though a life makes a call more or less than the one before."""

    def rank(fault: Fault) -> bytes:
        return hashlib.sha256(str(fault).encode()).digest()

    return sorted(faults, key=rank)[:SAMPLE]


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_a_call_that_fails_once_costs_one_connection_or_refuses_the_start(
    library: Path, part: int
) -> None:
    """Two hundred calls, each in a life of its own; a few are not made in every life."""
    campaign = Campaign(library, together=1)
    table = campaign.run_all(sample(list(every_fault(campaign.counts)))[part::PARTS])
    assert [str(one.fault) for one in table.broken] == []
    assert len(table.met) >= SAMPLE // PARTS - 4
