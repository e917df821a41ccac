"""The page's own traffic: samples through Envoy at an adjustable rate."""

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
    """Takes samples, and passes outcomes with their start times to ``take``."""

    def __init__(self, target: Target, take: Take) -> None:
        self.rate: int | None = None
        """The rate in connections per second; None: no traffic."""
        self.problem = ""
        """Why there is no traffic, if this host refused something."""
        self._target = target
        self._take = take
        self._sampler: Sampler | None = None

    def set(self, rate: int | None) -> None:
        """Change the rate."""
        self.stop()
        self.problem = ""
        if rate is None:
            return
        start = monotonic()  # before the sampler's start, so that samples seem older, never newer

        def take(outcome: Outcome) -> bool:
            self._take(outcome, start + outcome.began)
            return False

        try:
            self._sampler = Sampler(self._target, take, concurrency=THREADS, rate=rate)
            self.rate = rate
        except SystemRefused as refused:
            self.problem = str(refused)

    def poll(self) -> None:
        """Stop if this host has refused something."""
        refused = self._sampler and self._sampler.refused
        if refused:
            self.stop()
            self.problem = str(refused)

    def stop(self) -> None:
        """Stop the traffic; samples in progress do not count."""
        if self._sampler:
            self._sampler.stop()
        self._sampler = self.rate = None
