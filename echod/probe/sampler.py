"""Samples of one connection, one line and one reply each, taken by several threads."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from threading import Condition, RLock, Thread
from time import monotonic

from echod.errors import SystemRefused
from echod.loop.threads import start
from echod.probe.tally import Outcome
from echod.probe.target import Failed, Target, peer

AHEAD = 100
"""How many samples per thread may begin after the oldest sample that has not ended."""

BACK_OFF_SECONDS = 0.1
"""Pause of a thread after a failed sample, if the run waits for the split."""


def payloads() -> Callable[[int], bytes]:
    """A function that makes lines by number; no other client sends the same lines."""
    run = secrets.token_hex(4)
    return lambda number: f"echod-probe-{run}-{number}".encode()


def refusal(error: Exception) -> SystemRefused:
    """The error that ended a thread, as a SystemRefused for the thread that waits for it."""
    if isinstance(error, SystemRefused):
        return error
    return SystemRefused("out of memory" if isinstance(error, MemoryError) else repr(error))


def sampled(target: Target, number: int, payload: bytes, began: float) -> Outcome:
    """The outcome of one connection. Raises SystemRefused if this host caused the failure."""
    start = monotonic()
    deadline = start + target.timeout
    address = ""
    try:
        with target.connect(number, deadline) as connection:
            connected = monotonic()
            address = peer(connection)
            with target.service.open(connection, deadline) as channel:
                name, replied = target.service.ask(channel, payload, deadline)
                target.service.leave(channel, deadline)
    except Failed as failed:
        address = failed.address or address
        return Outcome(None, failed.kind, failed.detail, began=began, address=address)
    return Outcome(name, "", "", connected - start, replied - connected, began, address)


class Sampler:
    """Threads that take samples until a judge is sure.

    ``take`` is called with the outcomes in the order in which the samples began, so that slow
    versions are not undercounted. It returns true once the verdict is reached. At the latest, a run
    ends after ``cap`` samples or ``duration`` seconds.
    """

    def __init__(
        self,
        target: Target,
        take: Callable[[Outcome], bool],
        *,
        cap: float = math.inf,
        duration: float | None = None,
        concurrency: int = 10,
        rate: float | None = None,
        back_off: float = 0.0,
    ) -> None:
        self.target = target
        self.refused: SystemRefused | None = None
        self.answered = 0
        self.failed = 0
        self._take = take
        self._cap = cap
        self._rate = rate
        self._back_off = back_off
        self._most_ahead = AHEAD * concurrency
        lock = RLock()
        self._changed = Condition(lock)
        self._ended = Condition(lock)
        self._begun = 0
        self._under_way = 0
        self._judged = 0
        self._finished: dict[int, Outcome] = {}  # ended but not yet judged, by number
        self._sure = False
        self._stopped = False
        self._payload = payloads()
        self._start = monotonic()
        self._end = None if duration is None else self._start + duration
        count = int(min(concurrency, cap))
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(count)]
        self._start_threads()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._start

    @property
    def under_way(self) -> int:
        """The number of samples that have begun and not ended."""
        return self._under_way

    def wait(self, timeout: float, *, for_all: bool = False) -> bool:
        """Wait ``timeout`` seconds at most; return whether the run has ended.

        ``for_all``: also wait for samples that are in progress when the verdict is reached.
        """

        def done() -> bool:
            if self.refused or (self._sure and not for_all):
                return True
            return self._under_way == 0 and self._is_over(monotonic())

        with self._changed:
            return self._ended.wait_for(done, timeout)

    def stop(self) -> int:
        """Stop sampling and counting; return the number of samples abandoned in progress."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            return self._under_way

    def later(self) -> list[Outcome]:
        """The outcomes of samples that began after the last judged one and have ended, in order."""
        with self._changed:
            return [self._finished[number] for number in sorted(self._finished)]

    def _start_threads(self) -> None:
        """Start all threads. Raises SystemRefused if this host refuses one; no sample is taken."""
        with self._changed:  # so that no thread samples before all of them run
            try:
                start(self._threads)
            except SystemRefused:
                self._stopped = True
                raise

    def _work(self) -> None:
        try:
            while (begun := self._next()) is not None:
                number, began = begun
                self._finish(number, sampled(self.target, number, self._payload(number), began))
        except Exception as error:  # noqa: BLE001  # reported by the thread that waits
            with self._changed:
                self.refused = self.refused or refusal(error)
                self._ended.notify_all()
            self.stop()

    def _is_over(self, now: float) -> bool:
        """Whether no more samples begin."""
        timed_out = self._end is not None and now >= self._end
        return self._stopped or self._sure or self._begun >= self._cap or timed_out

    def _next(self) -> tuple[int, float] | None:
        """Wait until a sample may begin; return its number and start time, or None at the end."""
        with self._changed:
            while not self._is_over(now := monotonic()):
                due = self._start + self._begun / self._rate if self._rate else now
                full = self._begun - self._judged >= self._most_ahead
                if due <= now and not full:
                    self._begun += 1
                    self._under_way += 1
                    return self._begun, now - self._start
                pause = math.inf if full else due - now
                if self._end is not None:
                    pause = min(pause, self._end - now)
                self._changed.wait(min(pause, 3600.0))
        return None

    def _finish(self, number: int, outcome: Outcome) -> None:
        with self._changed:
            self._under_way -= 1
            if not self._stopped:
                self._count(number, outcome)
            self._changed.notify_all()
            if self._sure or self._under_way == 0:
                self._ended.notify_all()
            if outcome.version is None and self._back_off:
                self._changed.wait_for(lambda: self._is_over(monotonic()), self._back_off)

    def _count(self, number: int, outcome: Outcome) -> None:
        """Count an outcome, and pass on to the judge all that are complete in order."""
        if outcome.version is None:
            self.failed += 1
        else:
            self.answered += 1
        self._finished[number] = outcome
        while not self._sure and self._judged + 1 in self._finished:
            self._judged += 1
            self._sure = self._take(self._finished.pop(self._judged))
