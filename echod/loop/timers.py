"""When each handler's timer is due: a timing wheel with exact removal."""

from math import ceil
from typing import Generic, Protocol, TypeVar

SLOT_SECONDS = 0.1
HORIZON = 10
"""Slots that are searched ahead for the next entry: a second, after which loops look again."""


class Timed(Protocol):
    """An entry of the wheel, which alone sets ``timer_slot``: 0 while it is not scheduled."""

    timer_slot: int


Entry = TypeVar("Entry", bound=Timed)


class Timers(Generic[Entry]):
    """Entries in slots of a tenth of a second; an entry is in one slot at most.

    Adding and removing cost a set operation each, so that connections that come and go
    leave nothing behind, however far away their deadlines are.

    ``next_at`` is when ``due`` is to be called next (monotonic seconds): no entry is due before.
    """

    def __init__(self, now: float) -> None:
        self._slots: dict[int, set[Entry]] = {}
        self._done_slot = int(now / SLOT_SECONDS)  # the last slot whose entries were due
        self.next_at = (self._done_slot + HORIZON) * SLOT_SECONDS

    def schedule(self, entry: Entry, at: float) -> None:
        """Moves ``entry`` to the slot of the time ``at`` (monotonic seconds)."""
        # Never into a slot whose entries were due already.
        slot = ceil(at / SLOT_SECONDS)
        if slot <= self._done_slot:
            slot = self._done_slot + 1
        if slot == entry.timer_slot:
            return
        if entry.timer_slot:
            self.cancel(entry)
        # Without memory for it, the entry is in no slot, and says so.
        if slot in self._slots:
            self._slots[slot].add(entry)
        else:
            starts_at = slot * SLOT_SECONDS
            self._slots[slot] = {entry}
            self.look_at(starts_at)
        entry.timer_slot = slot

    def look_at(self, at: float) -> None:
        """Has ``due`` called at this time already, for something that is no entry."""
        if at < self.next_at:
            self.next_at = at

    def cancel(self, entry: Entry) -> None:
        """Takes ``entry`` out, if it is in."""
        if not entry.timer_slot:
            return
        entries = self._slots[entry.timer_slot]
        entries.remove(entry)
        if not entries:
            del self._slots[entry.timer_slot]
        entry.timer_slot = 0

    def due(self, now: float) -> list[Entry]:
        """Takes out and gives every entry whose time has come."""
        if now < self.next_at:
            return []
        entries: list[Entry] = []
        slot = int(now / SLOT_SECONDS)
        for done in range(self._done_slot + 1, slot + 1):
            entries += self._slots.pop(done, ())
        for entry in entries:
            entry.timer_slot = 0
        self._done_slot = slot
        ahead = range(slot + 1, slot + HORIZON)
        next_slot = next((one for one in ahead if one in self._slots), slot + HORIZON)
        self.next_at = next_slot * SLOT_SECONDS
        return entries
