"""Limits shared by all connections: connection slots and buffered bytes.

Locks without ``with``: the interpreter may need memory to leave a ``with`` block, and a lock that
stays held would stop every thread that takes it.
"""

from threading import Lock

MUCH_BYTES = 4 * 1024 * 1024
"""A peak of this many buffered bytes is worth returning to the system once it has been freed."""


class Admission:
    """The connection slots, shared by all ports.

    Each count has a single writer, so there is no lock: one thread accepts and takes slots, and
    each handler thread counts those that it gives back. The given back ones are read first: a slot
    that changes hands meanwhile counts as taken.
    """

    def __init__(self, limit: int, threads: int = 1) -> None:
        self.limit = limit
        self._taken = 0
        self._given_back = [0] * threads

    @property
    def taken(self) -> int:
        """The number of slots in use."""
        given_back = sum(self._given_back)
        return self._taken - given_back

    def full(self) -> bool:
        """Whether no slot is free."""
        return self.taken >= self.limit

    def take(self) -> bool:
        """Take a slot if one is free. Called by the thread that accepts."""
        if self._taken - sum(self._given_back) >= self.limit:
            return False
        self._taken += 1
        return True

    def give_back(self, index: int) -> None:
        """Free a slot. Called by the handler thread with this index."""
        self._given_back[index] += 1


class Budget:
    """The bytes buffered for all clients together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.buffered = 0
        self._peak = 0  # since most of it was last freed
        self._lock = Lock()

    def change(self, delta: int) -> bool:
        """Add ``delta`` bytes, which may be negative; return false, unchanged, above the limit."""
        self._lock.acquire()
        try:
            if delta > 0 and self.buffered + delta > self.limit:
                return False
            buffered = self.buffered + delta
            peak = max(self._peak, buffered)
            # Sums come first: if memory runs out, neither value changes.
            self.buffered, self._peak = buffered, peak
            return True
        finally:
            self._lock.release()

    def eased(self) -> bool:
        """Whether most of a large amount has become free. True once each time, and once more when
        most of the remainder is free too.
        """
        self._lock.acquire()
        try:
            if self._peak < MUCH_BYTES or self.buffered > self._peak // 4:
                return False
            rest = self.buffered > MUCH_BYTES // 4
            self._peak = max(self.buffered, MUCH_BYTES) if rest else self.buffered
            return True
        finally:
            self._lock.release()
