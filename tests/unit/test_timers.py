from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echod.loop.timers import HORIZON, SLOT_SECONDS, Timers


class Entry:
    def __init__(self) -> None:
        self.timer_slot = 0


def test_an_entry_is_due_at_its_time_and_not_before() -> None:
    """A deadline is never early, and at most a tick late."""
    timers: Timers[Entry] = Timers(100.0)
    entry = Entry()
    timers.schedule(entry, 101.05)
    assert timers.due(101.04) == []
    assert timers.due(101.05 + SLOT_SECONDS) == [entry]
    assert timers.due(200.0) == []


def test_an_entry_that_moves_is_due_once_at_its_new_time() -> None:
    """Each entry stands in one bucket."""
    timers: Timers[Entry] = Timers(100.0)
    entry, other = Entry(), Entry()
    timers.schedule(entry, 105.0)
    timers.schedule(other, 105.0)
    timers.schedule(entry, 102.0)
    timers.schedule(entry, 102.0)
    assert timers.due(103.0) == [entry]
    timers.cancel(other)
    timers.cancel(other)
    assert timers.due(110.0) == []


def test_a_time_in_the_past_is_due_in_the_next_slot() -> None:
    """Nothing is put into a bucket that has had its turn."""
    timers: Timers[Entry] = Timers(100.0)
    entry = Entry()
    timers.schedule(entry, 5.0)
    assert timers.due(100.0 + 2 * SLOT_SECONDS) == [entry]


@given(st.floats(0.0, 0.9), st.floats(0.0, 5.0))
def test_the_wait_ends_with_the_next_entry_or_the_longest_wait(offset: float, delay: float) -> None:
    """A loop that waits so long misses no deadline."""
    start = 1000.0 + offset
    timers: Timers[Entry] = Timers(start)
    longest = start + HORIZON * SLOT_SECONDS + 1e-6
    assert longest - 2 * SLOT_SECONDS <= timers.next_at <= longest
    timers.schedule(Entry(), start + delay)
    assert timers.next_at <= start + min(delay, HORIZON * SLOT_SECONDS) + SLOT_SECONDS + 1e-6
    while not timers.due(timers.next_at + 1e-6):
        assert timers.next_at <= start + delay + SLOT_SECONDS + 1e-6


def test_a_look_without_an_entry_finds_none_and_hides_none() -> None:
    """Something else has its time, too: the deadline of a stop."""
    timers: Timers[Entry] = Timers(100.0)
    entry = Entry()
    timers.schedule(entry, 100.55)
    timers.look_at(100.25)
    timers.look_at(100.45)
    assert timers.next_at == 100.25
    assert timers.due(100.25) == []
    assert timers.next_at == pytest.approx(100.6)
    assert timers.due(100.61) == [entry]


class Unhashable(Entry):
    """As an entry for whose place there is no memory."""

    def __hash__(self) -> int:
        raise MemoryError


def test_an_entry_that_cannot_be_put_in_a_slot_is_in_none() -> None:
    """Whatever then ends it takes it out as if it had never been in."""
    timers: Timers[Entry] = Timers(0.0)
    entry = Unhashable()
    for _ in range(2):
        with pytest.raises(MemoryError):
            timers.schedule(entry, 1.0)
        assert entry.timer_slot == 0
        timers.cancel(entry)
        timers.schedule(Entry(), 1.0)  # the second time there is such a slot
