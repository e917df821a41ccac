from __future__ import annotations

from math import inf
from signal import SIGINT
from typing import Any

import pytest

from echod import signals
from echod.signals import StopSignals


class Kept(StopSignals):
    """What has been kept of signals, by a clock: numbers, and seconds that pass in a wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *course: float) -> None:
        self.now = 1000.0
        self.course = [*course]
        self._interrupted_at, self._quiet_at = inf, -inf
        self._kept: Any = self
        monkeypatch.setattr(signals, "monotonic", lambda: self.now)

    def settimeout(self, timeout: float | None) -> None:
        assert timeout is not None

    def recv(self, _: int) -> bytes:
        if self.course[0] == SIGINT:
            return bytes([int(self.course.pop(0))])
        self.now += self.course.pop(0)
        raise TimeoutError

    def all_forces(self) -> list[bool]:
        """Whether each of them forces the end."""
        requests = [self.wait(1.0) for _ in list(self.course)]
        return [request.forces for request in requests if request]


def test_a_standstill_between_two_interrupts_is_no_time_in_which_none_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even if the wait has ended by its time when the process goes on: a wait is a tenth long."""
    assert Kept(monkeypatch, SIGINT, 5.0, SIGINT).all_forces() == [False, False]
    assert Kept(monkeypatch, SIGINT, *[0.1] * 11, SIGINT).all_forces() == [False, True]
    assert Kept(monkeypatch, SIGINT, 0.1, 5.0, SIGINT).all_forces() == [False, False]
