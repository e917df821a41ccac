"""What all connections share and may run out of: connection slots and buffer bytes."""

from threading import Lock

MUCH_BYTES = 4 * 1024 * 1024
"""Buffered bytes that the process should not keep when they are free again."""


class Admission:
    """The connection slots, shared by all ports."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._lock = Lock()

    def full(self) -> bool:
        """Whether no slot is free."""
        return self._taken >= self.limit

    def take(self) -> bool:
        """Takes a slot if one is free."""
        with self._lock:
            if self._taken >= self.limit:
                return False
            self._taken += 1
            return True

    def give_back(self) -> None:
        """Frees a slot that was taken."""
        with self._lock:
            self._taken -= 1


class Budget:
    """The bytes buffered for clients, all together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.buffered = 0
        self._peak = 0  # since most of it was last free
        self._lock = Lock()

    def change(self, delta: int) -> bool:
        """Buffers ``delta`` bytes more (or fewer); false, and no change, over the limit."""
        with self._lock:
            if delta > 0 and self.buffered + delta > self.limit:
                return False
            buffered = self.buffered + delta
            peak = max(self._peak, buffered)
            # Both or neither: for want of memory a sum may fail.
            self.buffered, self._peak = buffered, peak
            return True

    def eased(self) -> bool:
        """Whether much was buffered and most of it is free now; true once each time, and once
        more when most of a rest is free as well.
        """
        with self._lock:
            if self._peak < MUCH_BYTES or self.buffered > self._peak // 4:
                return False
            rest = self.buffered > MUCH_BYTES // 4
            self._peak = max(self.buffered, MUCH_BYTES) if rest else self.buffered
            return True
