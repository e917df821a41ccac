"""A call that an event loop's thread makes at regular intervals."""

from __future__ import annotations

from collections.abc import Callable

from echod.loop.event_loop import EventLoop


class Periodic:
    """Makes ``call`` every ``seconds`` seconds after ``start``."""

    def __init__(self, loop: EventLoop, seconds: float, call: Callable[[], None]) -> None:
        self.timer_slot = 0
        self._loop = loop
        self._seconds = seconds
        self._call = call

    def start(self) -> None:
        """Schedule the next call. Called in the loop's thread."""
        self._loop.timers.schedule(self, self._loop.now + self._seconds)

    def on_timer(self, now: float) -> None:
        """Make the call, and schedule the next one."""
        self.start()
        self._call()

    def on_error(self, error: Exception) -> None:
        """Report a bug; the next call stays scheduled."""
        self._loop.report_bug()
