"""A call that is made again and again in an event loop's thread."""

from __future__ import annotations

from collections.abc import Callable

from echod.loop.event_loop import EventLoop


class Periodic:
    """Makes ``call`` every so many ``seconds``, from ``start`` on."""

    def __init__(self, loop: EventLoop, seconds: float, call: Callable[[], None]) -> None:
        self.timer_slot = 0
        self._loop = loop
        self._seconds = seconds
        self._call = call

    def start(self) -> None:
        """Begins, in the loop's thread."""
        self._loop.timers.schedule(self, self._loop.now + self._seconds)

    def on_timer(self, now: float) -> None:
        """The time has come."""
        self.start()
        self._call()

    def on_error(self, error: Exception) -> None:
        """Reports a bug; the next call is made all the same."""
        self._loop.report_bug()
