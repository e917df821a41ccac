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
    began: float = 0.0
    """Since the start of the run."""
    address: str = ""
    """That it went to, if it came so far."""


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
        self.answered = 0  # samples with a reply that was theirs
        self.failed = 0  # samples without one
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}  # of each kind of failure, what the first one was
        self.connect: dict[str, Latencies] = {}
        self.reply: dict[str, Latencies] = {}

    @property
    def total(self) -> int:
        """All samples."""
        return self.answered + self.failed

    def add(self, outcome: Outcome) -> str | None:
        """Counts one sample; gives the name that it is counted under, None for a failure."""
        name = outcome.version
        if name is None:
            self.failed += 1
            self.failures[outcome.failure] += 1
            self.examples.setdefault(outcome.failure, outcome.detail)
            return None
        self.answered += 1
        if name not in self.versions and len(self.versions) >= MAX_NAMES:
            self.beyond += 1
            return OTHER
        self.versions[name] += 1
        self.connect.setdefault(name, Latencies()).add(outcome.connect_seconds)
        self.reply.setdefault(name, Latencies()).add(outcome.reply_seconds)
        return name

    def copy(self) -> Tally:
        """The counts as they are now, without the times."""
        made = Tally()
        made.versions, made.failures = Counter(self.versions), Counter(self.failures)
        made.beyond, made.answered, made.failed = self.beyond, self.answered, self.failed
        return made

    def since(self, before: Tally) -> Tally:
        """The counts that have come since; the times are those of all."""
        made = Tally()
        made.versions.update({n: k - before.versions[n] for n, k in self.versions.items()})
        kinds = {kind: k - before.failures[kind] for kind, k in self.failures.items()}
        made.failures.update({kind: k for kind, k in kinds.items() if k})
        made.beyond = self.beyond - before.beyond
        made.answered = self.answered - before.answered
        made.failed = self.failed - before.failed
        made.examples, made.connect, made.reply = self.examples, self.connect, self.reply
        return made
