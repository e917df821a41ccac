"""What the samples of a run add up to, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, exp, log

MAX_NAMES = 64

OTHER = "other"
"""What the names beyond the first MAX_NAMES are counted as."""

_STEP = log(1.02)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One sample: the version that answered, or what was wrong. Times are in seconds."""

    version: str | None
    failure: str = ""
    detail: str = ""
    connect_seconds: float = 0.0
    reply_seconds: float = 0.0


class Latencies:
    """Times in seconds, each known to 2 %."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Counts one more."""
        self._buckets[round(log(max(seconds, 1e-9)) / _STEP)] += 1

    def quantile(self, part: float) -> float | None:
        """The time in seconds that ``part`` of all do not pass; None if there are none."""
        left = max(1, ceil(part * self._buckets.total()))
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return exp(bucket * _STEP)
        return None


class Tally:
    """Counts by version and by kind of failure. One thread at a time may add."""

    def __init__(self, expected: Iterable[str] = ()) -> None:
        self.versions: Counter[str] = Counter(dict.fromkeys(expected, 0))
        self.beyond = 0  # answers under names that had no place any more
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}  # of each kind of failure, what the first one was
        self.connect: dict[str, Latencies] = {}
        self.reply: dict[str, Latencies] = {}

    @property
    def answered(self) -> int:
        """Samples with a reply that was theirs."""
        return self.versions.total() + self.beyond

    @property
    def failed(self) -> int:
        """Samples without one."""
        return self.failures.total()

    def add(self, outcome: Outcome) -> None:
        """Counts one sample."""
        name = outcome.version
        if name is None:
            self.failures[outcome.failure] += 1
            self.examples.setdefault(outcome.failure, outcome.detail)
            return
        if name not in self.versions and len(self.versions) >= MAX_NAMES:
            self.beyond += 1
            return
        self.versions[name] += 1
        self.connect.setdefault(name, Latencies()).add(outcome.connect_seconds)
        self.reply.setdefault(name, Latencies()).add(outcome.reply_seconds)
