"""The evidence of a sequence of hits and misses, for and against a share of hits.

Divide the likelihood of a sequence under a prior over shares by its likelihood under one share. If
that share is the true one, this ratio is a test martingale. By Ville's inequality, the probability
that it ever reaches x is then at most 1/x. So a judgement by such ratios may look after each sample
and stop at any time. This module computes their natural logarithms. Shares and differences of
shares are fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, inf, isinf, lgamma, log, log1p

PASS = 1 / 20
"""Maximum probability that a split which is off passes."""

_EDGE = 1e-6
"""Minimum distance of a prior's mean from 0 and 1."""

_BISECTIONS = 60


def log_likelihood(hits: float, misses: float, share: float) -> float:
    """The log-likelihood of a sequence in which each sample is a hit with probability ``share``."""
    if (hits and share <= 0) or (misses and share >= 1):
        return -inf
    return (hits * log(share) if hits else 0.0) + (misses * log1p(-share) if misses else 0.0)


class Beta:
    """A beta prior, given by its mean and its weight as a number of samples."""

    def __init__(self, mean: float, concentration: float) -> None:
        mean = min(1 - _EDGE, max(_EDGE, mean))
        self._a, self._b = concentration * mean, concentration * (1 - mean)
        self._total = concentration
        self._norm = lgamma(concentration) - lgamma(self._a) - lgamma(self._b)

    def log(self, hits: float, misses: float) -> float:
        """The logarithm of the likelihood of a sequence under this prior."""
        return (
            lgamma(self._a + hits)
            + lgamma(self._b + misses)
            - lgamma(self._total + hits + misses)
            + self._norm
        )


@dataclass(frozen=True)
class Mixture:
    """A prior that is the average of single shares and beta priors."""

    points: Sequence[float] = ()
    betas: Sequence[Beta] = ()

    def log(self, hits: float, misses: float) -> float:
        """The logarithm of the likelihood of a sequence under this prior."""
        logs = [beta.log(hits, misses) for beta in self.betas]
        logs += [log_likelihood(hits, misses, share) for share in self.points]
        most = max(logs)
        if len(logs) == 1 or isinf(most):
            return most
        return most + log(sum(exp(one - most) for one in logs) / len(logs))


def concentration(share: float, shift: float) -> float:
    """The concentration of a beta prior with a standard deviation of about ``shift``."""
    return max(1.0, share * (1 - share) / shift**2 - 1)


@dataclass(frozen=True, kw_only=True)
class ShareTest:
    """The test of one expected share: evidence against it, and for it.

    Without a tolerance, *wrong* rejects the share itself, and *right* rejects shares that are off
    by ``shift``. With a tolerance, *wrong* rejects every share within it, and *right* every share
    outside it. ``failed`` samples have no answer. They may be hits or misses, and the worst case
    counts.
    """

    share: float
    shift: float
    tolerant: bool
    against: float
    """The logarithm that evidence against must reach."""
    proof: float
    """The logarithm that evidence for must reach, on each side."""

    @cached_property
    def low(self) -> float:
        """The smallest share that is not wrong."""
        return max(0.0, self.share - self.shift) if self.tolerant else self.share

    @cached_property
    def high(self) -> float:
        """The largest share that is not wrong."""
        return min(1.0, self.share + self.shift) if self.tolerant else self.share

    @cached_property
    def below(self) -> float | None:
        """The largest share below the expected one that must be rejected; None without one."""
        return max(0.0, self.share - self.shift) if self.share > 0 else None

    @cached_property
    def above(self) -> float | None:
        """The smallest share above the expected one that must be rejected; None without one."""
        return min(1.0, self.share + self.shift) if self.share < 1 else None

    @cached_property
    def _any(self) -> Mixture:
        """A prior over all shares, with more weight on those that are off by about ``shift``."""
        shift = self.shift / 2 if self.tolerant else self.shift
        wide = 3 * self.shift
        sizes = [concentration(self.share, one) for one in (shift, wide)]
        return Mixture(betas=[Beta(self.share, one) for one in (*sizes, 1.0)])

    @cached_property
    def _expected(self) -> Mixture:
        """A prior at the expected share; with a tolerance, also around it."""
        if not self.tolerant:
            return Mixture([self.share])
        size = concentration(self.share, self.shift / 2)
        return Mixture([self.share], [Beta(self.share, size)])

    def log_e(self, hits: int, failed: int, total: int) -> float:
        """The log evidence against the share, with failures counted in its favor."""
        nearest = min(max(self.share * total, hits), hits + failed)
        if hits > self.high * total:
            nearest = hits
        elif hits + failed < self.low * total:
            nearest = hits + failed
        if not total:
            return 0.0
        best = min(self.high, max(self.low, nearest / total))
        likelihood = log_likelihood(nearest, total - nearest, best)
        return self._any.log(nearest, total - nearest) - likelihood

    def is_wrong(self, hits: int, failed: int, total: int) -> bool:
        """Whether the samples reject the expected share."""
        return self.log_e(hits, failed, total) >= self.against

    def is_right(self, hits: int, failed: int, total: int) -> bool:
        """Whether the samples reject every share that is off, on both sides."""
        if self.share >= 1:  # a failure is no evidence for another version
            total, failed = total - failed, 0
        return self.not_below(hits, total) and self.not_above(hits + failed, total)

    def not_below(self, hits: int, total: int) -> bool:
        """Whether every share that is off below is rejected."""
        return self.below is None or self._rejected(hits, total, 0.0, self.below)

    def not_above(self, hits: int, total: int) -> bool:
        """Whether every share that is off above is rejected."""
        return self.above is None or self._rejected(hits, total, self.above, 1.0)

    def _rejected(self, hits: int, total: int, low: float, high: float) -> bool:
        """Whether the samples reject all shares from ``low`` to ``high``, even the likeliest."""
        likeliest = min(high, max(low, hits / total if total else low))
        likelihood = log_likelihood(hits, total - hits, likeliest)
        expected = self._expected.log(hits, total - hits)
        return expected > -inf and expected - likelihood >= self.proof

    def interval(self, hits: int, failed: int, total: int) -> tuple[float, float]:
        """The shares that the samples do not reject, valid whenever the run ended."""
        if not total:
            return 0.0, 1.0

        def bound(hits: int, end: float) -> float:
            most = self._any.log(hits, total - hits) - self.against
            inside = hits / total
            return _edge(lambda q: log_likelihood(hits, total - hits, q) > most, inside, end)

        return bound(hits, 0.0), bound(hits + failed, 1.0)


def _edge(possible: Callable[[float], bool], inside: float, end: float) -> float:
    """The last possible share between ``inside`` and ``end``, by bisection."""
    if inside == end or possible(end):
        return end
    for _ in range(_BISECTIONS):
        middle = (inside + end) / 2
        inside, end = (middle, end) if possible(middle) else (inside, middle)
    return (inside + end) / 2
