"""Sums that detect when a share departs from the expected one and when it returns.

Each sample updates every sum by the ratio of two likelihoods, under one share and under another: S
<- (1 + S) x ratio (Shiryaev 1963, Roberts 1966). If samples follow the other share, the mean of
such sums less the number of samples is a martingale. So on average it takes at least x samples
until the mean of the sums reaches x by mistake. The sums may be checked without end.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf

STEPS = (1, 2, 4, 8)
"""The alternatives are off by these multiples of the smallest shift, on either side."""

ROOM = 10.0
"""A sum for the expected share stops at this multiple of what is enough. Otherwise a sum that has
grown for long would stay high for long after the share has departed."""


def _ratio(part: float, of: float) -> float:
    """The ratio of two probabilities; infinite if the second is 0."""
    return part / of if of else inf


class Departure:
    """The evidence that a share is off. The expected share lies between 0 and 1, exclusive."""

    def __init__(self, share: float, shift: float) -> None:
        offs = [share + side * step * shift for step in STEPS for side in (-1, 1)]
        # 0 and 1 stand for a version that never answers.
        alternatives = [min(1.0, max(0.0, one)) for one in offs] + [0.0, 1.0]
        self._hit = [one / share for one in alternatives]
        self._miss = [(1 - one) / (1 - share) for one in alternatives]
        self._sums = [0.0] * len(alternatives)

    @property
    def mean(self) -> float:
        """The mean of the sums of all alternatives."""
        return sum(self._sums) / len(self._sums)

    def add(self, *, hit: bool) -> None:
        """Take one more sample."""
        ratios = self._hit if hit else self._miss
        self._sums = [(1 + old) * ratio for old, ratio in zip(self._sums, ratios, strict=True)]


class Return:
    """The evidence for the expected share, against shares that are off by ``shift``."""

    def __init__(self, share: float, shift: float, enough: float) -> None:
        offs = [max(0.0, share - shift)] + ([min(1.0, share + shift)] if share < 1 else [])
        self._hit = [_ratio(share, one) for one in offs]
        self._miss = [_ratio(1 - share, 1 - one) for one in offs]
        self._sums = [0.0] * len(offs)
        self._enough = enough

    @property
    def is_shown(self) -> bool:
        """Whether every sum has reached ``enough``."""
        return min(self._sums) >= self._enough

    def add(self, *, hit: bool) -> None:
        """Take one more sample."""
        most = ROOM * self._enough
        ratios = self._hit if hit else self._miss
        self._sums = [
            min(most, (1 + old) * ratio) for old, ratio in zip(self._sums, ratios, strict=True)
        ]


def mean(departures: Collection[Departure]) -> float:
    """The mean over all alternatives of all shares; 0 if there are none."""
    return sum(one.mean for one in departures) / len(departures) if departures else 0.0
