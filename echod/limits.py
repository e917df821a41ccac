"""What all connections share and may run out of: places, buffer bytes, open files."""

from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Any

MUCH_BYTES = 4 * 1024 * 1024
"""Held bytes that the process should not keep when they are free again."""
QUIET_SECONDS = 1.0
"""A state of overload is over when it has not recurred for this long."""


class Latch:
    """A state that is reported once going in and once coming out, not at every recurrence."""

    def __init__(
        self,
        going_in: Callable[..., Any],
        coming_out: Callable[..., Any],
        still: Callable[[], bool] = lambda: False,
    ) -> None:
        """``going_in`` gets the facts of the first ``hit``; ``coming_out`` the number of hits.

        While ``still()`` is true the state does not end, however quiet it is.
        """
        self._going_in = going_in
        self._coming_out = coming_out
        self._still = still
        self._lock = Lock()
        self._times = 0
        self._last = 0.0

    def hit(self, **facts: Any) -> None:
        """Says that it has happened (again)."""
        with self._lock:
            self._times += 1
            self._last = monotonic()
            first = self._times == 1
        if first:
            self._going_in(**facts)

    def settle(self) -> None:
        """Ends the state if it has been quiet. To be called about every second."""
        with self._lock:
            quiet = monotonic() - self._last >= QUIET_SECONDS
            if not self._times or not quiet or self._still():
                return
            times, self._times = self._times, 0
        self._coming_out(times)


class Admission:
    """The places for connections, shared by all ports."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._lock = Lock()

    def full(self) -> bool:
        """Whether no place is free."""
        return self._taken >= self.limit

    def take(self) -> bool:
        """Takes a place if one is free."""
        with self._lock:
            if self.full():
                return False
            self._taken += 1
            return True

    def give_back(self) -> None:
        """Frees a place that was taken."""
        with self._lock:
            self._taken -= 1


class Budget:
    """The bytes held for clients, all together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._peak = 0  # since most of it was last free
        self._lock = Lock()

    def change(self, delta: int) -> bool:
        """Holds ``delta`` bytes more (or fewer); false, and no change, over the limit."""
        with self._lock:
            if delta > 0 and self.held + delta > self.limit:
                return False
            self.held += delta
            self._peak = max(self._peak, self.held)
            return True

    def eased(self) -> bool:
        """Whether much was held and most of it is free now; true once each time."""
        with self._lock:
            if self._peak < MUCH_BYTES or self.held > self._peak // 4:
                return False
            self._peak = self.held
            return True
