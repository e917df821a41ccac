"""Samples: one connection, one line, one reply each, from several threads at once."""

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
"""Samples for each one at a time that may begin beyond the oldest which has not ended."""

BACK_OFF_SECONDS = 0.1
"""Before the next sample of a thread whose last one failed, where a split is waited for."""


def payloads() -> Callable[[int], bytes]:
    """Lines that no other client sends, by their number."""
    run = secrets.token_hex(4)
    return lambda number: f"echod-probe-{run}-{number}".encode()


def refusal(error: Exception) -> SystemRefused:
    """What a thread ended with, for the one that waits for it."""
    if isinstance(error, SystemRefused):
        return error
    return SystemRefused("out of memory" if isinstance(error, MemoryError) else repr(error))


def sampled(target: Target, number: int, payload: bytes, began: float) -> Outcome:
    """What comes of one connection. Raises SystemRefused for what is not the target's doing."""
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
    """Threads that sample until a judge is sure, for a caller that waits for them.

    ``take`` gets the outcomes in the order in which the samples began, whatever the order in which
    they end, so that a slow version is not seen too late; it gives true when it has seen enough.
    Before that, ``cap`` samples end a run, and so do ``duration`` seconds.
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
        self._finished: dict[int, Outcome] = {}  # that are not judged yet, by their number
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
        """Since the start."""
        return monotonic() - self._start

    @property
    def under_way(self) -> int:
        """Samples that have begun and not ended."""
        return self._under_way

    def wait(self, timeout: float, *, for_all: bool = False) -> bool:
        """Whether the judge is sure, or all is done, after ``timeout`` seconds at most.

        ``for_all``: whether what is under way when the judge is sure is waited for.
        """

        def done() -> bool:
            if self.refused or (self._sure and not for_all):
                return True
            return self._under_way == 0 and self._is_over(monotonic())

        with self._changed:
            return self._ended.wait_for(done, timeout)

    def stop(self) -> int:
        """Begins no more samples and counts no more; gives how many are abandoned on their way."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            return self._under_way

    def later(self) -> list[Outcome]:
        """What has ended, but began after the last sample that was judged, in order."""
        with self._changed:
            return [self._finished[number] for number in sorted(self._finished)]

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
            while (begun := self._next()) is not None:
                number, began = begun
                self._finish(number, sampled(self.target, number, self._payload(number), began))
        except Exception as error:  # noqa: BLE001  # a thread that ends in silence is waited for
            with self._changed:
                self.refused = self.refused or refusal(error)
                self._ended.notify_all()
            self.stop()

    def _is_over(self, now: float) -> bool:
        """Whether no sample begins any more."""
        timed_out = self._end is not None and now >= self._end
        return self._stopped or self._sure or self._begun >= self._cap or timed_out

    def _next(self) -> tuple[int, float] | None:
        """The number and the beginning (s) of a sample, when it may begin; None: no more do."""
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
        """Hands over to the judge what is complete up to its beginning."""
        if outcome.version is None:
            self.failed += 1
        else:
            self.answered += 1
        self._finished[number] = outcome
        while not self._sure and self._judged + 1 in self._finished:
            self._judged += 1
            self._sure = self._take(self._finished.pop(self._judged))
