"""When each handler's timer expires: a timing wheel with exact removal."""

from math import ceil
from typing import Generic, Protocol, TypeVar

SLOT_SECONDS = 0.1
HORIZON = 10
"""How many slots ahead ``due`` searches for the next entry: one second, the longest wait of a
loop."""


class Timed(Protocol):
    """An entry of the wheel. Only the wheel sets ``timer_slot``, which is 0 while unscheduled."""

    timer_slot: int


Entry = TypeVar("Entry", bound=Timed)


class Timers(Generic[Entry]):
    """Entries in slots of a tenth of a second; an entry is in one slot at most.

    Adding or removing an entry is one set operation. Closed connections leave nothing behind,
    however distant their deadlines are.

    ``next_at`` is when to call ``due`` next (monotonic seconds): no entry expires earlier.
    """

    def __init__(self, now: float) -> None:
        self._slots: dict[int, set[Entry]] = {}
        self._done_slot = int(now / SLOT_SECONDS)  # the last slot that has expired
        self.next_at = (self._done_slot + HORIZON) * SLOT_SECONDS

    def schedule(self, entry: Entry, at: float) -> None:
        """Move ``entry`` to the slot of the time ``at`` (monotonic seconds)."""
        # Never into a slot that has expired.
        slot = ceil(at / SLOT_SECONDS)
        if slot <= self._done_slot:
            slot = self._done_slot + 1
        if slot == entry.timer_slot:
            return
        if entry.timer_slot:
            self.cancel(entry)
        # timer_slot is set last: if memory runs out here, it stays 0 and the entry unscheduled.
        if slot in self._slots:
            self._slots[slot].add(entry)
        else:
            starts_at = slot * SLOT_SECONDS
            self._slots[slot] = {entry}
            self.look_at(starts_at)
        entry.timer_slot = slot

    def look_at(self, at: float) -> None:
        """Have ``due`` called at this time at the latest, for an event that is not an entry."""
        if at < self.next_at:
            self.next_at = at

    def cancel(self, entry: Entry) -> None:
        """Remove ``entry``, if it is scheduled."""
        if not entry.timer_slot:
            return
        entries = self._slots[entry.timer_slot]
        entries.remove(entry)
        if not entries:
            del self._slots[entry.timer_slot]
        entry.timer_slot = 0

    def due(self, now: float) -> list[Entry]:
        """Remove and return every entry that has expired by ``now``."""
        if now < self.next_at:
            return []
        slot = int(now / SLOT_SECONDS)
        expired = range(self._done_slot + 1, slot + 1)
        entries = [entry for done in expired for entry in self._slots.get(done, ())]
        ahead = range(slot + 1, slot + HORIZON)
        next_slot = next((one for one in ahead if one in self._slots), slot + HORIZON)
        next_at = next_slot * SLOT_SECONDS
        for entry in entries:  # from here on nothing takes memory: no entry can be lost
            self._slots.pop(entry.timer_slot, None)
            entry.timer_slot = 0
        self._done_slot, self.next_at = slot, next_at
        return entries
