"""Throttling of frequent events: by states, or to a few of a kind per second.

Locks without ``with``: see echod.echo.limits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from threading import Lock
from time import monotonic
from typing import Any

QUIET_SECONDS = 1.0
"""A state of overload ends when it has not recurred for this long."""
EVENTS_A_SECOND = 10
"""Events of a kind logged individually per second, if clients cause them. One event sums up the
others."""

_AMOUNTS = "lines", "received_bytes", "sent_bytes"
_NONE = 0, 0, 0


class OverloadState:
    """A state that is logged once when it begins and once when it ends."""

    def __init__(
        self,
        going_in: Callable[..., Any],
        coming_out: Callable[..., Any],
        still: Callable[[], bool] = lambda: False,
    ) -> None:
        """``going_in`` is called with the fields of the first ``hit``, ``coming_out`` with the
        number of hits. While ``still()`` is true, the state does not end.
        """
        self._going_in = going_in
        self._coming_out = coming_out
        self._still = still
        self._lock = Lock()
        self._times = 0
        self._last = 0.0

    def hit(self, **facts: Any) -> None:
        """Record an occurrence."""
        self._lock.acquire()
        try:
            self._times += 1
            self._last = monotonic()
            first = self._times == 1
        finally:
            self._lock.release()
        if first:
            self._going_in(**facts)

    def end_if_quiet(self) -> None:
        """End the state if it has not recurred for a while. Call it about every second."""
        self._lock.acquire()
        try:
            quiet = monotonic() - self._last >= QUIET_SECONDS
            if not self._times or not quiet or self._still():
                return
            times, self._times = self._times, 0
        finally:
            self._lock.release()
        self._coming_out(times)


class RateLimitedEvent:
    """Events of a kind: a few in any second are logged individually, and one event sums up the
    others.
    """

    def __init__(self, report: Callable[..., Any], *, amounts: bool = False) -> None:
        """``report`` is called with ``count``, the number of omitted events, and with the sums of
        their ``lines``, ``received_bytes`` and ``sent_bytes``, if events have these ``amounts``.
        """
        self._report = report
        self._amounts = amounts
        self._lock = Lock()
        self._logged_at = deque([-inf] * EVENTS_A_SECOND, EVENTS_A_SECOND)
        self._since = 0.0  # when the first of the omitted events occurred
        self._left_out = 0
        self._sums = _NONE

    def allows(self, lines: int = 0, received: int = 0, sent: int = 0) -> bool:
        """Whether to log this event individually. If not, it is added to the sums."""
        self._lock.acquire()
        try:
            now = monotonic()
            if now - self._logged_at[0] < 1.0:
                if not self._left_out:
                    self._since = now
                sums = self._sums
                self._sums = (sums[0] + lines, sums[1] + received, sums[2] + sent)
                self._left_out += 1
                return False
            self._logged_at.append(now)
        finally:
            self._lock.release()
        self.summarize()  # the omitted events before this one
        return True

    def summarize(self, *, now: bool = False) -> None:
        """Report the omitted events, one second after the first of them, or ``now``."""
        self._lock.acquire()
        try:
            if not self._left_out or not (now or monotonic() - self._since >= 1.0):
                return
            count, self._left_out = self._left_out, 0
            sums, self._sums = self._sums, _NONE
        finally:
            self._lock.release()
        facts = dict(zip(_AMOUNTS, sums, strict=True)) if self._amounts else {}
        self._report(count=count, **facts)
