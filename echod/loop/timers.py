"""When each connection wants to be looked at next: a timing wheel with exact removal."""

from math import ceil
from typing import Generic, Protocol, TypeVar

TICK_SECONDS = 0.1
HORIZON = 11
"""Ticks that are looked ahead for the next entry; a wait ends there at the latest."""


class Timed(Protocol):
    """What the wheel holds. ``timer_slot`` is the wheel's own note: 0 while not scheduled."""

    timer_slot: int


Entry = TypeVar("Entry", bound=Timed)


class Timers(Generic[Entry]):
    """Entries in buckets of a tenth of a second; an entry stands in one bucket at most.

    Adding and removing cost a set operation each, so that connections that come and go
    leave nothing behind, however far away their deadlines are.
    """

    def __init__(self, now: float) -> None:
        self._buckets: dict[int, set[Entry]] = {}
        self._tick = int(now / TICK_SECONDS)  # this bucket and those before it are done
        self._next = self._tick + HORIZON  # no entry is due before this tick

    def schedule(self, entry: Entry, at: float) -> None:
        """Moves ``entry`` to the bucket of the time ``at`` (monotonic seconds)."""
        # Never into a bucket that has had its turn.
        tick = max(ceil(at / TICK_SECONDS), self._tick + 1)
        if tick == entry.timer_slot:
            return
        self.cancel(entry)
        self._buckets.setdefault(tick, set()).add(entry)
        entry.timer_slot = tick
        self._next = min(self._next, tick)

    def cancel(self, entry: Entry) -> None:
        """Takes ``entry`` out, if it is in."""
        if not entry.timer_slot:
            return
        bucket = self._buckets[entry.timer_slot]
        bucket.remove(entry)
        if not bucket:
            del self._buckets[entry.timer_slot]
        entry.timer_slot = 0

    def due(self, now: float) -> list[Entry]:
        """Takes out and gives every entry whose time has come."""
        if now < self._next * TICK_SECONDS:
            return []
        entries: list[Entry] = []
        tick = int(now / TICK_SECONDS)
        for done in range(self._tick + 1, tick + 1):
            entries += self._buckets.pop(done, ())
        for entry in entries:
            entry.timer_slot = 0
        self._tick = tick
        ahead = range(tick + 1, tick + HORIZON)
        self._next = next((one for one in ahead if one in self._buckets), tick + HORIZON)
        return entries

    def wait(self, now: float, most: float) -> float:
        """Seconds until the next entry may be due, ``most`` at the most."""
        return min(max(self._next * TICK_SECONDS - now, 0.0), most)
