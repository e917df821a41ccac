"""All of it, which takes hours: make inject."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inject.campaign import Campaign, Daemon, Table, killing, run_each, say
from inject.commands import Command
from inject.faults import every_delay, every_fault, every_kill, every_other_signal, every_stop
from inject.labs import LABS
from inject.probes import PROBES
from inject.watches import WATCHES


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
    campaign = Campaign(library, Daemon(inherited=inherited))
    beginning = request.config.getoption("call")
    faults = [one for one in every_fault(campaign.counts) if one.kind.startswith(beginning)]
    table = campaign.run_all(faults, minutes=request.config.getoption("minutes"))
    publish(f"{len(table.met)} faults, {'inherited' if inherited else 'own'} sockets", table)
    assert [str(one.fault) for one in table.broken] == []
    assert len(table.results) == len(faults), "the time is over"


@pytest.mark.parametrize("script", [*PROBES, *WATCHES, *LABS], ids=lambda one: one.name)
def test_each_call_of_another_command_that_fails_once_brings_no_wrong_verdict(
    library: Path,
    request: pytest.FixtureRequest,
    publish: Callable[[str, Table], None],
    script: Command,
) -> None:
    """Nor a hang, a traceback, or a process or a file that is left."""
    campaign = Campaign(library, script)
    beginning = request.config.getoption("call")
    faults = every_fault(campaign.counts, script.most)
    chosen = [one for one in faults if one.kind.startswith(beginning)]
    table = campaign.run_all(chosen, minutes=request.config.getoption("minutes"))
    publish(f"{len(table.met)} faults, {script.name}", table)
    assert [str(one.fault) for one in table.broken] == []
    assert len(table.results) == len(chosen), "the time is over"


@pytest.mark.parametrize("what", ["stops", "other signals", "delays"])
def test_each_call_at_which_a_signal_comes_or_that_takes_long_changes_nothing_else(
    library: Path,
    request: pytest.FixtureRequest,
    publish: Callable[[str, Table], None],
    what: str,
) -> None:
    """A stop keeps every promise of a drain, wherever it comes; time changes nothing."""
    campaign = Campaign(library, Daemon(stops=what == "stops"))
    every = {"stops": every_stop, "other signals": every_other_signal, "delays": every_delay}[what]
    faults = list(every(campaign.counts))
    table = campaign.run_all(faults, minutes=request.config.getoption("minutes"))
    publish(f"{len(table.met)} {what}", table)
    assert [str(one.fault) for one in table.broken] == []
    assert len(table.results) == len(faults), "the time is over"


def test_a_kill_at_each_call_refuses_nobody_behind_inherited_sockets(
    library: Path, request: pytest.FixtureRequest, publish: Callable[[str, Table], None]
) -> None:
    """Whom it had not accepted the next process serves."""
    counts = Campaign(library, Daemon(inherited=True)).counts
    minutes = request.config.getoption("minutes")
    table = run_each(killing(library), list(every_kill(counts)), minutes=minutes)
    publish(f"{len(table.met)} kills", table)
    assert [str(one.fault) for one in table.broken] == []
