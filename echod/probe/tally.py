"""The counts of a run's samples, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, exp, log

MAX_NAMES = 64

OTHER = "other"
"""The name under which all names beyond the first MAX_NAMES count."""

THIS_HOST = "this host"
"""The kind of failures that this host causes, where they do not end the run."""

_STEP = log(1.02)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One sample: the version that answered, or the failure. Times are in seconds."""

    version: str | None
    failure: str = ""
    detail: str = ""
    connect_seconds: float = 0.0
    reply_seconds: float = 0.0
    began: float = 0.0
    """Time from the start of the run to the start of the sample."""
    address: str = ""
    """The address that it went to, if known."""


class Latencies:
    """Times in seconds, each to a precision of 2 %."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one more time."""
        self._buckets[round(log(max(seconds, 1e-9)) / _STEP)] += 1

    def quantile(self, part: float) -> float | None:
        """The time in seconds that a share ``part`` does not exceed; None if there are none."""
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
        self.beyond = 0  # answers under names beyond MAX_NAMES
        self.answered = 0  # samples with the right reply
        self.failed = 0  # all other samples
        self.failures: Counter[str] = Counter()
        self.first: dict[str, Outcome] = {}  # the first failure of each kind
        self.connect: dict[str, Latencies] = {}
        self.reply: dict[str, Latencies] = {}

    @property
    def total(self) -> int:
        """All samples."""
        return self.answered + self.failed

    def add(self, outcome: Outcome) -> str | None:
        """Count one sample; return the name that it counts under, None for a failure."""
        name = outcome.version
        if name is None:
            self.failed += 1
            self.failures[outcome.failure] += 1
            self.first.setdefault(outcome.failure, outcome)
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
        """The current counts, without the times."""
        made = Tally()
        made.versions, made.failures = Counter(self.versions), Counter(self.failures)
        made.beyond, made.answered, made.failed = self.beyond, self.answered, self.failed
        return made

    def since(self, before: Tally) -> Tally:
        """The difference to earlier counts. The times are those of all samples."""
        made = Tally()
        made.versions.update({n: k - before.versions[n] for n, k in self.versions.items()})
        kinds = {kind: k - before.failures[kind] for kind, k in self.failures.items()}
        made.failures.update({kind: k for kind, k in kinds.items() if k})
        made.beyond = self.beyond - before.beyond
        made.answered = self.answered - before.answered
        made.failed = self.failed - before.failed
        made.first, made.connect, made.reply = self.first, self.connect, self.reply
        return made
