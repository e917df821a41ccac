"""Events that would come too often: states, and a few of a kind a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from operator import add
from threading import Lock
from time import monotonic
from typing import Any

QUIET_SECONDS = 1.0
"""A state of overload is over when it has not recurred for this long."""
EVENTS_A_SECOND = 10
"""Events of a kind that clients cause which are logged one by one; the others of a second share
one."""


class OverloadState:
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
        """Records that it has happened (again)."""
        with self._lock:
            self._times += 1
            self._last = monotonic()
            first = self._times == 1
        if first:
            self._going_in(**facts)

    def end_if_quiet(self) -> None:
        """Ends the state if it has not recurred for a while. To be called about every second."""
        with self._lock:
            quiet = monotonic() - self._last >= QUIET_SECONDS
            if not self._times or not quiet or self._still():
                return
            times, self._times = self._times, 0
        self._coming_out(times)


class RateLimitedEvent:
    """Events of a kind, of which a few in any second are logged one by one. One event sums up the
    others.
    """

    def __init__(self, report: Callable[..., Any], *names: str) -> None:
        """``report`` gets ``count``, how many were left out, and the sums of their amounts under
        ``names``.
        """
        self._report = report
        self._names = names
        self._lock = Lock()
        self._logged_at = deque([-inf] * EVENTS_A_SECOND, EVENTS_A_SECOND)
        self._since = 0.0  # when the first of those was left out
        self._left_out = 0
        self._sums = self._zeros = (0,) * len(names)

    def allows(self, *amounts: int) -> bool:
        """Whether one more is to be logged now; what is not is summed up."""
        with self._lock:
            now = monotonic()
            if now - self._logged_at[0] < 1.0:
                if not self._left_out:
                    self._since = now
                self._left_out += 1
                self._sums = tuple(map(add, self._sums, amounts))
                return False
            self._logged_at.append(now)
        self.summarize()  # those before this one
        return True

    def summarize(self, *, now: bool = False) -> None:
        """Reports what was left out, a second after the first of it, or ``now``."""
        with self._lock:
            if not self._left_out or not (now or monotonic() - self._since >= 1.0):
                return
            count, self._left_out = self._left_out, 0
            sums, self._sums = self._sums, self._zeros
        self._report(count=count, **dict(zip(self._names, sums, strict=True)))
