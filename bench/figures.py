"""Samples and their statistics: medians, ranges, and ratios within a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Sample = dict[str, float]
"""The figures of one peer in one round of one scenario, by name."""

Samples = dict[str, list[Sample | None]]
"""Samples by peer; None if it failed in that round."""


@dataclass(frozen=True)
class Spread:
    """A median, and the minimum and maximum of the rounds."""

    median: float
    low: float
    high: float

    def show(self, form: Callable[[float], str]) -> str:
        """``1,234 (1,200-1,300)``, or the median alone after one round."""
        if self.low == self.high:
            return form(self.median)
        between = "-" if self.low >= 0 else " to "
        return f"{form(self.median)} ({form(self.low)}{between}{form(self.high)})"


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of some figures; None without any."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values))


def of(samples: Samples, peer: str, figure: str) -> Spread | None:
    """The spread of one figure of one peer."""
    return spread([one[figure] for one in samples.get(peer, []) if one and figure in one])


def ratio(samples: Samples, figure: str, ours: str, theirs: str) -> Spread | None:
    """The ratio of echod's figure to a peer's, within each round."""
    pairs = zip(samples.get(ours, []), samples.get(theirs, []), strict=False)
    return spread(
        [
            one[figure] / other[figure]
            for one, other in pairs
            if one and other and figure in one and other.get(figure)
        ]
    )


def three_digits(value: float) -> str:
    """A figure with three significant digits: 2.14M, 131,000, 12.7, 0.0123."""
    if not value:
        return "0"
    if value >= 999_500:
        return three_digits(value / 1e6) + "M"
    magnitude = abs(value)
    places = next((p for p, least in enumerate((100, 10, 1, 0.1, 0.01)) if magnitude >= least), 5)
    if magnitude < 1000:
        return f"{value:.{places}f}"
    digits = len(str(int(magnitude))) - 3
    return f"{round(value, -digits):,.0f}"
