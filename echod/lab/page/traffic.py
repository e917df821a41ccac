"""The page's own traffic: samples through Envoy at a rate that can be changed."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from echod.errors import SystemRefused
from echod.probe.sampler import Sampler
from echod.probe.tally import Outcome
from echod.probe.target import Target

THREADS = 8

Take = Callable[[Outcome, float], None]


class Traffic:
    """Samples whose outcomes go to ``take``, each with the time at which it began."""

    def __init__(self, target: Target, take: Take) -> None:
        self.rate: int | None = None
        """Connections a second; None: no traffic."""
        self.problem = ""
        """Why there is none, if this host has refused it."""
        self._target = target
        self._take = take
        self._sampler: Sampler | None = None

    def set(self, rate: int | None) -> None:
        """Another rate."""
        self.stop()
        self.problem = ""
        if rate is None:
            return
        start = monotonic()  # before the sampler's own: a sample is taken for older than it is

        def take(outcome: Outcome) -> bool:
            self._take(outcome, start + outcome.began)
            return False

        try:
            self._sampler = Sampler(self._target, take, concurrency=THREADS, rate=rate)
            self.rate = rate
        except SystemRefused as refused:
            self.problem = str(refused)

    def poll(self) -> None:
        """Sees whether this host still has what it takes."""
        refused = self._sampler and self._sampler.refused
        if refused:
            self.stop()
            self.problem = str(refused)

    def stop(self) -> None:
        """No more of it; what is under way is not counted."""
        if self._sampler:
            self._sampler.stop()
        self._sampler = self.rate = None
