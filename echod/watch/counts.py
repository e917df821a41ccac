"""The counts of all samples of a watch, in bounded memory."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from echod.probe.result import printable
from echod.probe.tally import MAX_NAMES, OTHER, THIS_HOST, Outcome

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms, in seconds; +Inf follows."""

KINDS = ("refused", "reset", "timeout", "closed", "wrong reply", "name not found", "unreachable")


class Histogram:
    """Times in seconds by bucket, not cumulative."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one more time."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Counts:
    """Counts by version, under printable names, and by kind of failure. They never decrease.

    ``kinds`` are the kinds of failure that are possible beside KINDS and THIS_HOST.
    """

    def __init__(self, kinds: Iterable[str] = ()) -> None:
        self.connections: Counter[str] = Counter()
        self.failures: Counter[str] = Counter(dict.fromkeys((*KINDS, *kinds, THIS_HOST), 0))
        self.connect: dict[str, Histogram] = {}
        self.reply: dict[str, Histogram] = {}

    def expect(self, names: Iterable[str]) -> None:
        """Add these versions, starting at 0."""
        for name in names:
            self._add(printable(name), 0)

    def add(self, outcome: Outcome) -> None:
        """Count one sample."""
        if outcome.version is None:
            self.failures[outcome.failure] += 1
            return
        name = printable(outcome.version)
        if name not in self.connections and len(self.connections) >= MAX_NAMES:
            name = OTHER
        self._add(name, 1)
        self.connect[name].add(outcome.connect_seconds)
        self.reply[name].add(outcome.reply_seconds)

    def _add(self, name: str, number: int) -> None:
        self.connections[name] += number
        self.connect.setdefault(name, Histogram())
        self.reply.setdefault(name, Histogram())
