"""Samples: one connection, one line, one reply each, from several threads at once."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from threading import Condition, Thread
from time import monotonic

from echod.errors import SystemRefused
from echod.loop.threads import start
from echod.probe.tally import Outcome, Tally
from echod.probe.target import Failed, Target, ask

PATIENCE = 20
"""Failures, beyond those that are allowed, after which a run gives up."""


def payloads() -> Callable[[int], bytes]:
    """Lines that nobody else sends, by their number."""
    run = secrets.token_hex(4)
    return lambda number: f"echod-probe-{run}-{number}".encode()


def refusal(error: Exception) -> SystemRefused:
    """What a thread ended with, for the one that waits for it."""
    if isinstance(error, SystemRefused):
        return error
    return SystemRefused("out of memory" if isinstance(error, MemoryError) else repr(error))


class Sampler:
    """Threads that sample until there are enough, for whoever waits for them.

    ``wanted`` answers end it (samples, where ``failures_count``), and so do ``duration`` seconds,
    and more than ``max_errors`` failures: at once if nothing has answered yet, or else when it
    is PATIENCE more, which shows how often it fails. A sample that has begun by then is counted,
    so that a slow version is not counted short.
    """

    def __init__(
        self,
        target: Target,
        tally: Tally,
        *,
        wanted: float,
        max_errors: float,
        failures_count: bool = False,
        duration: float | None = None,
        concurrency: int = 10,
        rate: float | None = None,
    ) -> None:
        self.target = target
        self.tally = tally
        self.refused: SystemRefused | None = None
        self._wanted = wanted
        self._max_errors = math.inf if failures_count else max_errors
        self._failures_count = failures_count
        self._rate = rate
        self._changed = Condition()
        self._begun = 0
        self._under_way = 0
        self._stopped = False
        self._payload = payloads()
        self._start = monotonic()
        self._end = None if duration is None else self._start + duration
        count = int(min(concurrency, wanted))
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(count)]
        self._start_threads()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return monotonic() - self._start

    def wait(self, timeout: float) -> bool:
        """Whether all is done, after ``timeout`` seconds at most."""
        end = monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> int:
        """Begins no more samples and counts no more; gives how many are abandoned on their way."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            return self._under_way

    def _start_threads(self) -> None:
        """Start all threads. Raises SystemRefused, without a sample, if this host refuses one."""
        with self._changed:  # no thread samples before all of them run
            try:
                start(self._threads)
            except SystemRefused:
                self._stopped = True
                raise

    def _work(self) -> None:
        try:
            while (number := self._next()) is not None:
                self._finish(self._sample(number))
        except Exception as error:  # noqa: BLE001  # a thread that ends in silence is waited for
            with self._changed:
                self.refused = self.refused or refusal(error)
            self.stop()

    def _next(self) -> int | None:
        """The number of a sample that may begin now, or None if there are no more."""
        with self._changed:
            while not self._stopped:
                now = monotonic()
                if self._end is not None and now >= self._end:
                    return None
                if self._hopeless():
                    return None
                enough = self._counted() + self._under_way >= self._wanted
                if enough and not self._under_way:
                    return None
                due = self._start + self._begun / self._rate if self._rate else now
                if not enough and due <= now:
                    self._begun += 1
                    self._under_way += 1
                    return self._begun
                pause = None if enough else min(due - now, 3600.0)
                if self._end is not None:
                    pause = min(pause or self._end - now, self._end - now)
                self._changed.wait(pause)
        return None

    def _hopeless(self) -> bool:
        excess = self.tally.failed - self._max_errors
        return excess > PATIENCE or (excess > 0 and not self.tally.answered)

    def _counted(self) -> int:
        return self.tally.answered + (self.tally.failed if self._failures_count else 0)

    def _sample(self, number: int) -> Outcome:
        start = monotonic()
        deadline = start + self.target.timeout
        try:
            with self.target.connect(deadline) as connection:
                connected = monotonic()
                prefix = ask(connection, self._payload(number), deadline)
                replied = monotonic()
        except Failed as failed:
            return Outcome(None, failed.kind, failed.detail)
        name = prefix.decode("utf-8", "surrogateescape")
        return Outcome(name, "", "", connected - start, replied - connected)

    def _finish(self, outcome: Outcome) -> None:
        with self._changed:
            self._under_way -= 1
            if not self._stopped:
                self.tally.add(outcome)
            self._changed.notify_all()
