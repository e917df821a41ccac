"""Fixed samples of what ``make inject`` does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import ask, connect, get, read_exactly, until

from inject.campaign import Campaign, Daemon, Table, killing, run_each
from inject.commands import Command
from inject.faults import (
    Fault,
    every_delay,
    every_fault,
    every_kill,
    every_other_signal,
    every_stop,
)
from inject.injector import DELAY, Control
from inject.labs import LABS
from inject.life import OPTIONS
from inject.probes import PROBES
from inject.process import Process
from inject.watches import WATCHES

SAMPLE, PARTS = 200, 10
STOPS, OTHERS, KILLS, DELAYS = 40, 4, 20, 20
STALL_MILLISECONDS = 15_000


def sample(faults: Iterable[Fault], size: int) -> list[Fault]:
    """The same ones, though a life makes a call more or less than the one before."""

    def rank(fault: Fault) -> bytes:
        return hashlib.sha256(str(fault).encode()).digest()

    return sorted(faults, key=rank)[:size]


def judge(table: Table, least: int) -> None:
    """A few calls are not made in every life."""
    assert [str(one.fault) for one in table.broken] == []
    assert len(table.met) >= least


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_a_call_that_fails_once_costs_one_connection_or_refuses_the_start(
    library: Path, part: int
) -> None:
    """Two hundred calls, each in a life of its own."""
    campaign = Campaign(library, together=1)
    table = campaign.run_all(sample(every_fault(campaign.counts), SAMPLE)[part::PARTS])
    judge(table, SAMPLE // PARTS - 4)


@pytest.mark.long
@pytest.mark.parametrize("script", [*PROBES, *WATCHES, *LABS], ids=lambda one: one.name)
def test_a_call_of_another_command_that_fails_once_brings_no_wrong_verdict(
    library: Path, script: Command
) -> None:
    """Nor a hang, a traceback, or a process or a file that is left."""
    campaign = Campaign(library, script, together=1)
    table = campaign.run_all(sample(every_fault(campaign.counts, script.most), script.sampled))
    judge(table, script.sampled - 2)


@pytest.mark.long
def test_a_stop_at_any_call_keeps_every_promise_of_a_drain(library: Path) -> None:
    """Before it is ready, amid everything, and when another stop is under way."""
    campaign = Campaign(library, Daemon(stops=True), together=1)
    judge(campaign.run_all(sample(every_stop(campaign.counts), STOPS)), STOPS - 6)


@pytest.mark.long
def test_a_signal_that_stops_nothing_changes_nothing(library: Path) -> None:
    """Whichever call it meets."""
    campaign = Campaign(library, together=1)
    judge(campaign.run_all(sample(every_other_signal(campaign.counts), OTHERS)), OTHERS - 2)


@pytest.mark.long
def test_a_call_that_takes_long_changes_nothing(library: Path) -> None:
    """Up to half a second, alone or many of them by chance."""
    campaign = Campaign(library, together=1)
    judge(campaign.run_all(sample(every_delay(campaign.counts), DELAYS)), DELAYS - 4)


@pytest.mark.long
def test_a_kill_at_any_call_refuses_nobody_behind_inherited_sockets(library: Path) -> None:
    """Whom it had not accepted the next process serves."""
    counts = Campaign(library, Daemon(inherited=True)).counts
    table = run_each(killing(library), sample(every_kill(counts), KILLS), together=1)
    judge(table, KILLS - 6)


@pytest.mark.long
def test_a_call_that_does_not_return_is_a_stall_for_livez(library: Path, tmp_path: Path) -> None:
    """As long as it does not, and no longer."""
    control = Control(library, tmp_path / "control")
    words = [word for pair in OPTIONS.items() for word in pair]
    with ExitStack() as held:
        process = Process(tmp_path, ["0,0", "one", "--metrics-port", "0", *words], control, None)
        held.callback(process.close)
        process.ready()
        ports, metrics_port = process.ports()
        files = process.descriptors()
        assert get(metrics_port, "/livez")[0] == 200
        until(lambda: process.descriptors() == files)  # it receives no more of that client
        with connect(ports[0]) as client:
            ask(client, b"before\n")
            number = control.counts["recvfrom, TCP"] + 1
            control.plan("recvfrom, TCP", number, DELAY, STALL_MILLISECONDS)
            client.sendall(b"x\n")
            until(lambda: control["done"])
            until(lambda: b"stalled: handler-0" in get(metrics_port, "/livez")[1])
            assert get(metrics_port, "/livez")[0] == 503
            assert read_exactly(client, 6) == b"one x\n"
            until(lambda: get(metrics_port, "/livez")[0] == 200)
        process.terminate()
        assert process.wait() == 0
