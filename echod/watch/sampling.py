"""The samples of a watch: a thread for the schedule, and threads that make connections."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic

from echod.errors import SystemRefused
from echod.loop.threads import start
from echod.probe.sampler import payloads, refusal, sampled
from echod.probe.tally import Outcome
from echod.probe.target import Target
from echod.watch.counts import LOCAL
from echod.watch.schedule import Schedule

MOST_WAITING = 1000
"""Maximum number of ended samples that wait for an earlier one."""

LOOK_UP_SECONDS = 30.0
"""Time after which a name is resolved again."""

LEAST_LOOK_UP_SECONDS = 1.0
"""The same after a failed sample."""


class Sampling:
    """Takes samples at a rate until stopped, with at most ``concurrency`` at a time.

    ``take`` is called with the outcomes in the order in which the samples began. Errors of this
    host count as failures too.
    """

    def __init__(
        self, target: Target, take: Callable[[Outcome], None], *, rate: float, concurrency: int
    ) -> None:
        self.refused: SystemRefused | None = None
        self.ended = 0
        self._target = target
        self._take = take
        self._concurrency = concurrency
        self._start = monotonic()
        self._schedule = Schedule(rate, self._start)
        self._payload = payloads()
        self._begun: SimpleQueue[tuple[int, float] | None] = SimpleQueue()
        self._stopped = Event()
        self._lock = Lock()
        self._number = 0
        self._under_way = 0
        self._taken = 0
        self._finished: dict[int, Outcome] = {}  # by number, waiting for an earlier one
        self._looked_up = self._start
        self._left_out = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._start

    @property
    def skipped(self) -> int:
        """The number of scheduled samples that did not begin."""
        return self._schedule.skipped + self._left_out

    def begin(self) -> None:
        """Start all threads. Raises SystemRefused if this host refuses one."""
        works = [
            Thread(target=self._work, name=f"sampler-{number}", daemon=True)
            for number in range(self._concurrency)
        ]
        try:
            start([*works, Thread(target=self._keep, name="schedule", daemon=True)])
        except SystemRefused:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop sampling and counting."""
        with self._lock:
            self._stopped.set()
        for _ in range(self._concurrency):
            self._begun.put(None)

    def _keep(self) -> None:
        """Begin a sample whenever one is scheduled and a thread is free for it."""
        while not self._stopped.is_set():
            if wait := self._schedule.wait_for(monotonic()):
                self._stopped.wait(wait)
                continue
            self._schedule.begin()
            with self._lock:
                room = self._under_way < self._concurrency and len(self._finished) < MOST_WAITING
                if not room:
                    self._left_out += 1
                    continue
                self._number += 1
                self._under_way += 1
                self._begun.put((self._number, self.seconds))

    def _work(self) -> None:
        try:
            while (begun := self._begun.get()) is not None:
                self._finish(begun[0], self._sample(*begun))
        except Exception as error:  # noqa: BLE001  # reported by the main thread
            self.refused = self.refused or refusal(error)

    def _sample(self, number: int, began: float) -> Outcome:
        try:
            return sampled(self._target, number, self._payload(number), began)
        except SystemRefused as refused:
            return Outcome(None, LOCAL, str(refused), began=began)

    def _finish(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            self._under_way -= 1
            if self._stopped.is_set():
                return
            self._look_up_again(failed=outcome.version is None)
            self.ended += 1
            self._finished[number] = outcome
            while (one := self._finished.pop(self._taken + 1, None)) is not None:
                self._taken += 1
                self._take(one)

    def _look_up_again(self, *, failed: bool) -> None:
        """Have the name resolved again from time to time, because its service may have moved."""
        now = monotonic()
        if now - self._looked_up >= (LEAST_LOOK_UP_SECONDS if failed else LOOK_UP_SECONDS):
            self._looked_up = now
            self._target.forget()
