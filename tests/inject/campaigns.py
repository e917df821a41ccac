"""All of it, which takes an hour or two: make inject."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inject.campaign import Campaign, Table, killing, run_each, say
from inject.faults import every_delay, every_fault, every_kill, every_signal


@pytest.fixture
def publish(request: pytest.FixtureRequest) -> Callable[[str, Table], None]:
    """Prints a table, and adds it to the file of ``--table``."""

    def publish(title: str, table: Table) -> None:
        text = "\n".join([f"### {title}", "", *table.lines(), ""])
        say(f"\n{text}")
        if path := request.config.getoption("table"):
            with Path(path).open("a") as file:
                file.write(text + "\n")

    return publish


@pytest.mark.parametrize("inherited", [False, True], ids=["own sockets", "inherited sockets"])
def test_each_call_that_fails_once_costs_one_connection_or_refuses_the_start(
    library: Path,
    request: pytest.FixtureRequest,
    publish: Callable[[str, Table], None],
    inherited: bool,
) -> None:
    """Each call of each life, with each error that a correct program can meet there."""
    campaign = Campaign(library, inherited=inherited)
    beginning = request.config.getoption("call")
    faults = [one for one in every_fault(campaign.counts) if one.kind.startswith(beginning)]
    table = campaign.run_all(faults, minutes=request.config.getoption("minutes"))
    publish(f"{len(table.met)} faults, {'inherited' if inherited else 'own'} sockets", table)
    assert [str(one.fault) for one in table.broken] == []
    assert len(table.results) == len(faults), "the time is over"


@pytest.mark.parametrize("what", ["signals", "delays"])
def test_each_call_at_which_a_signal_comes_or_that_takes_long_changes_nothing_else(
    library: Path,
    request: pytest.FixtureRequest,
    publish: Callable[[str, Table], None],
    what: str,
) -> None:
    """A stop keeps every promise of a drain, wherever it comes; time changes nothing."""
    campaign = Campaign(library)
    faults = list((every_signal if what == "signals" else every_delay)(campaign.counts))
    table = campaign.run_all(faults, minutes=request.config.getoption("minutes"))
    publish(f"{len(table.met)} {what}", table)
    assert [str(one.fault) for one in table.broken] == []
    assert len(table.results) == len(faults), "the time is over"


def test_a_kill_at_each_call_refuses_nobody_behind_inherited_sockets(
    library: Path, request: pytest.FixtureRequest, publish: Callable[[str, Table], None]
) -> None:
    """Whom it had not accepted the next process serves."""
    counts = Campaign(library, inherited=True).counts
    minutes = request.config.getoption("minutes")
    table = run_each(killing(library), list(every_kill(counts)), minutes=minutes)
    publish(f"{len(table.met)} kills", table)
    assert [str(one.fault) for one in table.broken] == []
