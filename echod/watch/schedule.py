"""When samples begin: at a rate, for ever."""

from __future__ import annotations

GRACE_SECONDS = 0.1
"""How late samples may be and still all begin, at rates of more than one in this time."""


class Schedule:
    """``rate`` samples a second. Those that could not begin when they were due are left out, so
    that no burst follows a pause: a target that hangs, a process that was suspended.

    Times are those of the monotonic clock, in seconds.
    """

    def __init__(self, rate: float, start: float) -> None:
        self.skipped = 0
        self._spacing = 1 / rate
        self._due = start

    def wait_for(self, now: float) -> float:
        """Seconds from ``now`` until the next sample may begin; 0: it may."""
        late = now - self._due
        if late >= max(self._spacing, GRACE_SECONDS):
            missed = int(late / self._spacing)
            self.skipped += missed
            self._due += missed * self._spacing
        return max(0.0, self._due - now)

    def begin(self) -> None:
        """One begins, or has no place to begin in."""
        self._due += self._spacing
