"""Exact tails and intervals of the binomial distribution."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from echod.probe.binomial import at_least, at_most, interval, least_above, most_below, p_value

CHANCES = [Fraction(1, 1000), Fraction(1, 5), Fraction(1, 2), Fraction(4, 5), Fraction(999, 1000)]


@pytest.mark.parametrize("n", [1, 2, 7, 100])
@pytest.mark.parametrize("p", CHANCES)
def test_tails_are_those_of_exact_arithmetic(n: int, p: Fraction) -> None:
    """Summed up in fractions, to 12 digits, in the far tails too."""
    mass = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    for k in range(-1, n + 2):
        assert at_most(k, n, float(p)) == pytest.approx(float(sum(mass[: k + 1])), rel=1e-12)
        least = float(sum(mass[max(0, k) :]))
        assert at_least(k, n, float(p)) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.001, 0.2, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("n", [1, 10, 1000])
@pytest.mark.parametrize("tail", [0.0005, 0.3])
def test_the_bounds_of_a_tail_are_the_last_ones(n: int, p: float, tail: float) -> None:
    """One further in, and the chance is over the tail."""
    low, high = most_below(n, p, tail), least_above(n, p, tail)
    assert at_most(low, n, p) <= tail < at_most(low + 1, n, p)
    assert at_least(high, n, p) <= tail < at_least(high - 1, n, p)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1316, 1645), (5, 1)])
def test_an_interval_is_what_the_test_does_not_reject(k: int, n: int) -> None:
    """Its ends have a p-value of alpha; and no share is outside 0 and 1."""
    k = min(k, n)
    low, high = interval(k, n, 0.01)
    assert 0 <= low <= k / n <= high <= 1
    assert k == 0 or p_value(k, n, low) == pytest.approx(0.01)
    assert k == n or p_value(k, n, high) == pytest.approx(0.01)
