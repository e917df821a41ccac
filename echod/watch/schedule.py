"""When samples begin: at a constant rate, without end."""

from __future__ import annotations

GRACE_SECONDS = 0.1
"""How late samples may be without being skipped, at rates of more than one in this time."""


class Schedule:
    """``rate`` samples a second. Samples that could not begin in time are skipped, so that no burst
    follows a pause, such as a hung target or a suspended process.

    Times are in monotonic seconds.
    """

    def __init__(self, rate: float, start: float) -> None:
        self.skipped = 0
        self._spacing = 1 / rate
        self._due = start

    def wait_for(self, now: float) -> float:
        """Seconds from ``now`` until the next sample may begin, or 0."""
        late = now - self._due
        if late >= max(self._spacing, GRACE_SECONDS):
            missed = int(late / self._spacing)
            self.skipped += missed
            self._due += missed * self._spacing
        return max(0.0, self._due - now)

    def begin(self) -> None:
        """Advance by one sample, which begins or is skipped."""
        self._due += self._spacing
