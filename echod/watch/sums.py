"""Has a share left what is expected, and has it come back? Sums that may be looked at for ever.

A sample multiplies each sum by the ratio of its likelihood under one share to that under another:
S <- (1 + S) x ratio (Shiryaev 1963, Roberts 1966). If samples follow the other share, then the mean
of such sums less the number of samples is a martingale. So it takes at least x samples, on average,
until the mean of the sums reaches x by mistake.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf

STEPS = (1, 2, 4, 8)
"""By how many times the least shift the alternatives are off, on either side."""

ROOM = 10.0
"""A sum for the expected share stops at so many times what is enough. One that has grown for long
would otherwise stay high for long after the share has left to that side."""


def _ratio(part: float, of: float) -> float:
    """The quotient of two chances; infinite where the second is none."""
    return part / of if of else inf


class Departure:
    """What speaks for a share that is off, against the expected one, from over 0 to under 1."""

    def __init__(self, share: float, shift: float) -> None:
        offs = [share + side * step * shift for step in STEPS for side in (-1, 1)]
        # And a dead version on either side.
        alternatives = [min(1.0, max(0.0, one)) for one in offs] + [0.0, 1.0]
        self._hit = [one / share for one in alternatives]
        self._miss = [(1 - one) / (1 - share) for one in alternatives]
        self._sums = [0.0] * len(alternatives)

    @property
    def mean(self) -> float:
        """Of the sums of all alternatives."""
        return sum(self._sums) / len(self._sums)

    def add(self, *, hit: bool) -> None:
        """Takes one more sample."""
        ratios = self._hit if hit else self._miss
        self._sums = [(1 + old) * ratio for old, ratio in zip(self._sums, ratios, strict=True)]


class Return:
    """What speaks for the expected share, against one that is off by ``shift`` on either side."""

    def __init__(self, share: float, shift: float, enough: float) -> None:
        offs = [max(0.0, share - shift)] + ([min(1.0, share + shift)] if share < 1 else [])
        self._hit = [_ratio(share, one) for one in offs]
        self._miss = [_ratio(1 - share, 1 - one) for one in offs]
        self._sums = [0.0] * len(offs)
        self._enough = enough

    @property
    def is_shown(self) -> bool:
        """Whether every sum is enough."""
        return min(self._sums) >= self._enough

    def add(self, *, hit: bool) -> None:
        """Takes one more sample."""
        most = ROOM * self._enough
        ratios = self._hit if hit else self._miss
        self._sums = [
            min(most, (1 + old) * ratio) for old, ratio in zip(self._sums, ratios, strict=True)
        ]


def mean(departures: Collection[Departure]) -> float:
    """Of all alternatives of all shares; 0 if there are none."""
    return sum(one.mean for one in departures) / len(departures) if departures else 0.0
