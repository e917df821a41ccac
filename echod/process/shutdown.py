"""The graceful shutdown, as a list of named steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from signal import Signals
from time import monotonic, sleep
from typing import NamedTuple, TypeVar

from echod.config.options import Config
from echod.process.lifecycle import Part, Service
from echod.process.main_loop import MainLoop

LOOK_SECONDS = 0.02
"""Time between two checks whether a step has ended."""
LATE_LOOKS = 100
"""Further checks once the time of a step is up: more than any part needs to linger. Counted, not
timed: after a suspension of the whole process, time has passed in which no thread could run."""

TRIES = 100
"""How often a call is repeated that there is no memory for."""

Result = TypeVar("Result")


class Step(NamedTuple):
    """``begin`` returns the parts that must end, ``seconds`` the time that they may take."""

    name: str
    begin: Callable[[], Sequence[Part]]
    seconds: Callable[[], float]


class _Time:
    """A part that ends after a fixed time."""

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def is_alive(self) -> bool:
        return monotonic() < self._end


def steps(config: Config, service: Service, deadline: float) -> list[Step]:
    """The steps in order. Connections have until ``deadline`` (monotonic seconds)."""
    delay = config.drain_delay

    def left() -> float:
        return max(deadline - monotonic(), 0.0)

    return [
        Step("keep accepting while not ready", lambda: [_Time(delay)], lambda: delay),
        Step("stop accepting", service.stop_accepting, lambda: 0.0),
        Step("drain", lambda: service.drain(left()), left),
        Step("stop the metrics port", service.stop_exporter, lambda: 0.0),
    ]


def take(all_steps: Sequence[Step], main_loop: MainLoop) -> Signals | None:
    """Take the steps. Return early if a signal forces the exit, with that signal."""
    for step in all_steps:
        parts = retried(step.begin)
        if forced := _wait_for(parts, retried(step.seconds), main_loop):
            return forced
    return None


def _wait_for(parts: Sequence[Part], seconds: float, main_loop: MainLoop) -> Signals | None:
    end, looks = monotonic() + seconds, LATE_LOOKS
    while looks:
        try:
            if not any(part.is_alive() for part in parts):
                break
            looks -= monotonic() >= end
            if forced := main_loop.wait_for_force(LOOK_SECONDS):
                return forced
        except MemoryError:
            looks -= 1
            sleep(LOOK_SECONDS)
    return None


def retried(call: Callable[[], Result]) -> Result:
    """The result of a call, which is repeated for two seconds if there is no memory for it. If a
    shutdown ended early, all connections would be lost. Raises MemoryError.
    """
    for _ in range(TRIES):
        try:
            return call()
        except MemoryError:
            sleep(LOOK_SECONDS)
    return call()
