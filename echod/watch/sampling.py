"""The samples of a watch: a thread for the schedule, and threads that make connections."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic

from echod.errors import SystemRefused
from echod.loop.threads import start
from echod.probe.sampler import payloads, refusal, sampled
from echod.probe.tally import THIS_HOST, Outcome
from echod.probe.target import LEAST_LOOK_UP_SECONDS, Failed, Target
from echod.watch.schedule import Schedule

MOST_WAITING = 1000
"""Maximum number of ended samples that wait for an earlier one."""

LOOK_UP_SECONDS = 30.0
"""Time after which a name is looked up again; after a failed sample or look-up, it is
LEAST_LOOK_UP_SECONDS."""


class Sampling:
    """Takes samples at a rate until stopped, with at most ``concurrency`` at a time.

    ``take`` is called with the outcomes in the order in which the samples began. Errors of this
    host count as failures too. ``looked_up`` is called after each later look-up of the name, with
    the problem, or without if there is none. It is never called at the same time as ``take``.
    """

    def __init__(
        self,
        target: Target,
        take: Callable[[Outcome], None],
        looked_up: Callable[[str], None],
        *,
        rate: float,
        concurrency: int,
    ) -> None:
        self.refused: SystemRefused | None = None
        self.ended = 0
        self._target = target
        self._take = take
        self._told = looked_up
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
        self._look_up_at = self._start + LOOK_UP_SECONDS
        self._failed = False  # since the last look-up
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
        works = [(f"sampler-{number}", self._work) for number in range(self._concurrency)]
        works += [("look-ups", self._look_up_again), ("schedule", self._keep)]
        try:
            start(
                [
                    Thread(target=self._run, args=(work,), name=name, daemon=True)
                    for name, work in works
                ]
            )
        except SystemRefused:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop sampling and counting."""
        with self._lock:
            self._stopped.set()
        for _ in range(self._concurrency):
            self._begun.put(None)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  # reported by the main thread
            self.refused = self.refused or refusal(error)

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
        while (begun := self._begun.get()) is not None:
            self._finish(begun[0], self._sample(*begun))

    def _sample(self, number: int, began: float) -> Outcome:
        try:
            return sampled(self._target, number, self._payload(number), began)
        except SystemRefused as refused:
            return Outcome(None, THIS_HOST, str(refused), began=began)

    def _finish(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            self._under_way -= 1
            if self._stopped.is_set():
                return
            self._failed |= outcome.version is None
            self.ended += 1
            self._finished[number] = outcome
            while (one := self._finished.pop(self._taken + 1, None)) is not None:
                self._taken += 1
                self._take(one)

    def _look_up_again(self) -> None:
        """Look the name up from time to time, because its service may have moved."""
        while not self._stopped.wait(LEAST_LOOK_UP_SECONDS):
            self._look_up_if_due()

    def _look_up_if_due(self) -> None:
        with self._lock:
            failed, self._failed = self._failed, False
        if failed:
            self._target.choose_again()
        elif monotonic() < self._look_up_at:
            return
        problem, again = "", LOOK_UP_SECONDS
        try:
            self._target.renew()
        except Failed as error:
            problem, again = error.detail, LEAST_LOOK_UP_SECONDS
        except SystemRefused as refused:
            problem, again = str(refused), LEAST_LOOK_UP_SECONDS
        self._look_up_at = monotonic() + again
        with self._lock:
            if not self._stopped.is_set():
                self._told(problem)
