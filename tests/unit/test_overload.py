from __future__ import annotations

from typing import Any

import pytest

from echod.echo import limits
from echod.echo.limits import Admission, Budget
from echod.telemetry import throttling
from echod.telemetry.throttling import OverloadState


def test_connection_slots_are_taken_up_to_the_limit_and_freed() -> None:
    """Two in, the third refused; one out, the next gets in."""
    admission = Admission(2)
    assert [admission.take(), admission.take(), admission.take()] == [True, True, False]
    assert admission.full()
    admission.give_back(0)
    assert not admission.full()
    assert admission.take()


def test_the_budget_refuses_what_would_pass_it_and_keeps_its_count() -> None:
    """A refused change changes nothing."""
    budget = Budget(100)
    assert budget.change(100)
    assert not budget.change(1)
    assert budget.buffered == 100
    assert budget.change(-60)
    assert budget.change(60)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throttling, "monotonic", clock)
    return clock


def test_an_overload_state_is_logged_once_at_its_begin_and_once_at_its_end(clock: Clock) -> None:
    """Overload must not flood the log that it is reported in."""
    seen: list[Any] = []
    overload = OverloadState(lambda **facts: seen.append(facts), seen.append)
    overload.end_if_quiet()
    overload.hit(limit=1)
    clock.now = 0.9
    overload.hit(limit=1)
    clock.now = 1.5
    overload.end_if_quiet()
    assert seen == [{"limit": 1}]
    clock.now = 2.0
    overload.end_if_quiet()
    overload.end_if_quiet()
    assert seen == [{"limit": 1}, 2]
    overload.hit(limit=3)
    assert seen == [{"limit": 1}, 2, {"limit": 3}]


def test_an_overload_state_lasts_while_its_cause_does(clock: Clock) -> None:
    """A full server without new clients is still full."""
    seen: list[Any] = []
    full = [True]
    overload = OverloadState(lambda **_: None, seen.append, still=lambda: full[0])
    overload.hit()
    clock.now = 60.0
    overload.end_if_quiet()
    assert seen == []
    full[0] = False
    overload.end_if_quiet()
    assert seen == [1]


def test_the_budget_has_eased_when_most_of_much_is_free_again() -> None:
    """Once each time: small amounts, and bytes that are still buffered, need no action."""
    budget = Budget(100 * limits.MUCH_BYTES)
    budget.change(limits.MUCH_BYTES - 1)
    budget.change(-(limits.MUCH_BYTES - 1))
    assert not budget.eased()
    budget.change(4 * limits.MUCH_BYTES)
    budget.change(-limits.MUCH_BYTES)
    assert not budget.eased()
    budget.change(-2 * limits.MUCH_BYTES)
    assert budget.eased()
    assert not budget.eased()


def test_the_budget_eases_once_more_when_the_rest_is_free_as_well() -> None:
    """A check may come while the last megabytes are still buffered; their memory would never be
    returned.
    """
    budget = Budget(100 * limits.MUCH_BYTES)
    budget.change(40 * limits.MUCH_BYTES)
    budget.change(-40 * limits.MUCH_BYTES + limits.MUCH_BYTES - 1)
    assert budget.eased()
    assert not budget.eased()
    budget.change(-limits.MUCH_BYTES + 1)
    assert budget.eased()
    assert not budget.eased()
