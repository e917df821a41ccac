"""When a signal forces the end, by a clock that the test moves."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from support.refused import Refusing

from echod.process import signals
from echod.process.signals import FORCE_SECONDS, StopSignals

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
    """An operator insists; a wrapper only forwards the signals of its group."""
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
    """Container runtimes repeat SIGTERM seconds later."""
    assert not forces(stops, signal.SIGINT)
    look(stops, clock, clock.now + 100)
    assert not forces(stops, number)


def test_the_first_sigint_counts_not_the_stop_before_it(stops: StopSignals, clock: Clock) -> None:
    """Its event says how to force the end."""
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


@pytest.mark.parametrize("kept", [True, False])
def test_a_signal_without_memory_for_its_request_is_found_by_the_next_wait(
    stops: StopSignals, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    """Whether or not the interpreter could keep its number."""
    if not kept:
        signal.set_wakeup_fd(-1)

    def no_memory(*_: object) -> Any:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(signals, "StopRequest", no_memory)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(MemoryError):
            stops.wait(0.01)
    request = stops.wait(0.01)
    assert request
    assert request.signal == signal.SIGTERM
    assert stops.wait(0) is None


def test_signals_after_the_end_of_the_context_are_ignored(stops: StopSignals) -> None:
    """The interpreter would restore the default, and end with another status."""
    stops.__exit__()
    assert {signal.getsignal(number) for number in NUMBERS} == {signal.SIG_IGN}


class Kept(StopSignals):
    """What has been kept of signals, by a clock: numbers, and seconds that pass in a wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *course: float) -> None:
        self.now = 1000.0
        self.course = [*course]
        self._interrupted_at, self._quiet_at = inf, -inf
        self._unread = set()
        self._kept: Any = self
        monkeypatch.setattr(signals, "monotonic", lambda: self.now)

    def settimeout(self, timeout: float | None) -> None:
        assert timeout is not None

    def recv(self, _: int) -> bytes:
        if self.course[0] == signal.SIGINT:
            return bytes([int(self.course.pop(0))])
        self.now += self.course.pop(0)
        raise TimeoutError

    def all_forces(self) -> list[bool]:
        """Whether each of them forces the end."""
        requests = [self.wait(1.0) for _ in list(self.course)]
        return [request.forces for request in requests if request]


def test_a_suspension_between_two_sigints_does_not_count_as_quiet_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even if the wait has ended by its time when the process goes on: a wait is a tenth long."""
    assert Kept(monkeypatch, signal.SIGINT, 5.0, signal.SIGINT).all_forces() == [False, False]
    assert Kept(monkeypatch, signal.SIGINT, *[0.1] * 11, signal.SIGINT).all_forces() == [
        False,
        True,
    ]
    assert Kept(monkeypatch, signal.SIGINT, 0.1, 5.0, signal.SIGINT).all_forces() == [False, False]


@pytest.mark.parametrize("call", ["settimeout", "recv"])
def test_a_wait_that_the_system_refuses_loses_no_signal(stops: StopSignals, call: str) -> None:
    """For want of memory, say: the next wait has it."""
    refusing = Refusing(fileno=stops._kept.detach())
    stops._kept = refusing
    refusing.refuse(call, errno.ENOMEM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stops.wait(1) is None
    assert stops.wait(1) == (signal.SIGTERM, False)


def test_a_signal_that_wakes_nobody_is_found_when_the_wait_is_over(stops: StopSignals) -> None:
    """As when the system has no memory for the byte by which the interpreter wakes it."""
    written, (stops._kept, other) = stops._kept, socket.socketpair()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stops.wait(0.01) == (signal.SIGTERM, False)
    assert stops.wait(0.01) is None
    written.close()
    other.close()


def test_a_signal_that_arrives_as_it_becomes_ignored_is_not_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter does, by the hook, when it finds no handler; other reports still come."""
    reports: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: reports.append(str(error.exc_value)))
    set_handler = signal.signal

    def race(number: int, handler: Any) -> None:
        set_handler(number, handler)
        if handler == signal.SIG_IGN:
            for error in (OSError("Signal 15 ignored due to race condition"), ValueError("a bug")):
                sys.unraisablehook(SimpleNamespace(exc_type=type(error), exc_value=error))

    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr(signal, "signal", race)
    try:
        signals._ignore([signal.SIGUSR1])
    finally:
        set_handler(signal.SIGUSR1, before)
    assert reports == ["a bug"]
    sys.unraisablehook(SimpleNamespace(exc_value="later"))
    assert reports == ["a bug", "later"]
