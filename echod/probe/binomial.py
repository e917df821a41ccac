"""Tails and intervals of the binomial distribution, exact but for rounding.

The tails are values of the regularised incomplete beta function, computed by its continued
fraction (Abramowitz and Stegun 26.5.8, evaluated as Lentz proposed).
"""

from collections.abc import Callable
from functools import lru_cache
from math import exp, lgamma, log, log1p, sqrt
from statistics import NormalDist

_TINY = 1e-300
_PRECISION = 1e-14


def _beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for a and b over 0."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    scale = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    return scale / (a * _fraction(a, b, x))


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction 1 + d1/(1 + d2/(1 + ...)) of I_x(a, b)."""
    value = front = 1.0
    back = 0.0
    change, step = 0.0, 0
    while abs(change - 1) > _PRECISION:
        step += 1
        half = step // 2
        if step % 2:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        back = 1 / (1 + term * back or _TINY)
        front = 1 + term / front or _TINY
        change = front * back
        value *= change
    return value


def at_most(k: int, n: int, p: float) -> float:
    """The probability of at most ``k`` hits in ``n`` samples, with probability ``p`` each."""
    if k < 0 or k >= n:
        return float(k >= n)
    return _beta(n - k, k + 1, 1 - p)


def at_least(k: int, n: int, p: float) -> float:
    """The probability of at least ``k`` hits in ``n`` samples, with probability ``p`` each."""
    if k <= 0 or k > n:
        return float(k <= 0)
    return _beta(k, n - k + 1, p)


def p_value(k: int, n: int, p: float) -> float:
    """The p-value of ``k`` hits in ``n`` samples under probability ``p``: twice the smaller tail.

    It is at most ``alpha`` exactly if ``p`` is outside the interval of that level.
    """
    return min(1.0, 2 * min(at_most(k, n, p), at_least(k, n, p)))


def interval(k: int, n: int, alpha: float) -> tuple[float, float]:
    """The Clopper-Pearson interval of ``k`` hits in ``n`` samples, at level 1 - ``alpha``.

    It contains the true probability with at least that confidence.
    """
    low = 0.0 if k == 0 else _root(lambda p: at_least(k, n, p) > alpha / 2)
    high = 1.0 if k == n else _root(lambda p: at_most(k, n, p) <= alpha / 2)
    return low, high


def _root(beyond: Callable[[float], bool]) -> float:
    """Where in [0, 1] a condition begins to hold, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if beyond(middle):
            high = middle
        else:
            low = middle
    return (low + high) / 2


def most_below(n: int, p: float, tail: float) -> int:
    """The largest k such that at most k hits have a probability of at most ``tail``; or -1."""
    # A guess by the normal distribution, corrected for skewness: usually exact, or off by one.
    z = _normal_quantile(tail)
    near = n * p + z * sqrt(n * p * (1 - p)) + (z * z - 1) * (1 - 2 * p) / 6 - 0.5
    k = max(-1, min(n, round(near)))
    step = 1
    while k >= 0 and at_most(k, n, p) > tail:
        k, step = max(-1, k - step), 2 * step
    # k is low enough. Now find the largest that is.
    step = 1
    while step:
        if k + step <= n and at_most(k + step, n, p) <= tail:
            k, step = k + step, 2 * step
        else:
            step //= 2
    return k


def least_above(n: int, p: float, tail: float) -> int:
    """The smallest k such that at least k hits have a probability of at most ``tail``; or n + 1."""
    return n - most_below(n, 1 - p, tail)


@lru_cache(16)
def _normal_quantile(tail: float) -> float:
    return NormalDist().inv_cdf(tail)
