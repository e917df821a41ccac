"""When a signal forces the end, by a clock that the test moves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from echod import signals
from echod.signals import FORCE_SECONDS, StopSignals

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(signals, "monotonic", clock)
    return clock


@pytest.fixture
def stops() -> Iterator[StopSignals]:
    """Of this process, which has its own handlers back afterwards."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    wakeup = signal.set_wakeup_fd(-1)
    with StopSignals() as stops:
        yield stops
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(wakeup)


def forces(stops: StopSignals, number: int) -> bool:
    os.kill(os.getpid(), number)
    request = stops.wait(1)
    assert request
    assert request.signal == number
    return request.forces


def look(stops: StopSignals, clock: Clock, now: float) -> None:
    """Nothing comes until then."""
    clock.now = now
    assert stops.wait(0) is None


def test_a_sigint_forces_the_end_a_second_after_the_first_and_not_before(
    stops: StopSignals, clock: Clock
) -> None:
    start = clock.now
    assert not forces(stops, signal.SIGINT)
    for seconds in (0.001, 0.01, 0.2, FORCE_SECONDS - 0.01):
        look(stops, clock, start + seconds)
        assert not forces(stops, signal.SIGINT)
    look(stops, clock, start + FORCE_SECONDS)
    assert forces(stops, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_no_other_signal_forces_the_end_however_late(
    stops: StopSignals, clock: Clock, number: int
) -> None:
    assert not forces(stops, signal.SIGINT)
    look(stops, clock, clock.now + 100)
    assert not forces(stops, number)


def test_the_first_sigint_counts_not_the_stop_before_it(stops: StopSignals, clock: Clock) -> None:
    assert not forces(stops, signal.SIGTERM)
    look(stops, clock, clock.now + 100)
    assert not forces(stops, signal.SIGINT)


def test_two_sigints_that_are_read_late_do_not_force_the_end(
    stops: StopSignals, clock: Clock
) -> None:
    """They came together; then the whole process was suspended for longer than a second."""
    assert not forces(stops, signal.SIGINT)
    look(stops, clock, clock.now + 0.1)
    clock.now += 10
    assert not forces(stops, signal.SIGINT)


def test_what_comes_when_all_is_over_is_ignored(stops: StopSignals) -> None:
    """The interpreter would restore the default, and end with another status."""
    stops.__exit__()
    assert {signal.getsignal(number) for number in NUMBERS} == {signal.SIG_IGN}
