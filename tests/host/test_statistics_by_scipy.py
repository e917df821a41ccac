"""The statistics of the probe beside scipy's, over a grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import betaln, logsumexp, xlog1py, xlogy
from scipy.stats import beta, binom, binomtest, chi2, chi2_contingency
from support.splits import rules

from echod.probe.binomial import at_least, at_most, interval, least_above, most_below, p_value
from echod.probe.fixed import POWER, sample_size
from echod.probe.independence import chi_square_tail, homogeneity

SIZES = [1, 2, 10, 137, 1712, 39_772, 1_000_000]
SHARES = [1e-4, 0.01, 0.2, 1 / 3, 0.5, 0.8, 0.999]


def counts(n: int, p: float) -> set[int]:
    """Around the middle and far out on both sides."""
    middle, spread = round(n * p), max(1, round((n * p * (1 - p)) ** 0.5))
    found = {0, n, *(middle + spread * step for step in (-12, -5, -3, -1, 0, 1, 2, 4, 12))}
    return {k for k in found if 0 <= k <= n}


@pytest.mark.parametrize(("n", "p"), list(itertools.product(SIZES, SHARES)))
def test_tails_are_scipys(n: int, p: float) -> None:
    """To nine digits, or where both are as good as nothing."""
    for k in counts(n, p):
        assert at_most(k, n, p) == pytest.approx(binom.cdf(k, n, p), rel=1e-7, abs=1e-200)
        assert at_least(k, n, p) == pytest.approx(binom.sf(k - 1, n, p), rel=1e-7, abs=1e-200)


@pytest.mark.parametrize(("n", "alpha"), list(itertools.product(SIZES, [0.5, 0.05, 0.001, 1e-6])))
def test_intervals_are_scipys(n: int, alpha: float) -> None:
    """Clopper and Pearson's, by scipy's test and by the beta distribution."""
    for k in set().union(*(counts(n, p) for p in SHARES)):
        exact = binomtest(k, n).proportion_ci(1 - alpha, "exact")
        assert interval(k, n, alpha) == pytest.approx((exact.low, exact.high), abs=1e-8)
        if 0 < k < n:
            low = beta.ppf(alpha / 2, k, n - k + 1)
            assert interval(k, n, alpha)[0] == pytest.approx(low, rel=1e-6)


@pytest.mark.parametrize(("n", "p"), list(itertools.product(SIZES, SHARES)))
def test_bounds_and_p_values_are_scipys(n: int, p: float) -> None:
    """The p-value is twice the smaller of scipy's one-sided ones."""
    for tail in (0.0005, 0.025):
        low, high = most_below(n, p, tail), least_above(n, p, tail)
        assert binom.cdf(low, n, p) <= tail < binom.cdf(low + 1, n, p)
        assert binom.sf(high - 1, n, p) <= tail < binom.sf(high - 2, n, p)
    for k in counts(n, p):
        sides = [binomtest(k, n, p, alternative=side).pvalue for side in ("less", "greater")]
        assert p_value(k, n, p) == pytest.approx(min(1, 2 * min(sides)), rel=1e-7, abs=1e-200)


@pytest.mark.parametrize(
    ("p", "shift"), list(itertools.product([0.5, 0.8, 0.95], [0.2, 0.05, 0.01]))
)
def test_fixed_numbers_have_the_power_that_scipy_gives_them(p: float, shift: float) -> None:
    """In both directions, as far as there is room; one connection less has not."""

    def power(n: int) -> float:
        low, high = binom.ppf(0.0005, n, p), binom.ppf(1 - 0.0005, n, p)
        low -= binom.cdf(low, n, p) > 0.0005
        high += 1 + (binom.sf(high, n, p) > 0.0005)
        truths = [q for q in (p - shift, p + shift) if 0 <= q <= 1]
        return float(min(binom.cdf(low, n, q) + binom.sf(high - 1, n, q) for q in truths))

    n = sample_size((p,), 0.0005, shift)
    assert power(n) >= POWER > power(n - 1)


@pytest.mark.parametrize(("n", "p"), list(itertools.product(SIZES, [*SHARES, 1.0])))
@pytest.mark.parametrize("shift", [0.01, 0.05, 0.2])
def test_the_evidence_is_scipys(n: int, p: float, shift: float) -> None:
    """The mean of three beta-binomial likelihoods over that of the share, as logarithms."""
    test = rules(f"a={p},b={1 - p}", detect=shift).test(p)
    sizes = [max(1, p * (1 - p) / one**2 - 1) for one in (shift, 3 * shift)]
    mean = min(1 - 1e-6, max(1e-6, p))
    for k in counts(n, p):
        priors = [
            betaln(c * mean + k, c * (1 - mean) + (n - k)) - betaln(c * mean, c * (1 - mean))
            for c in (*sizes, 1)
        ]
        known = logsumexp(priors) - np.log(3) - xlogy(k, p) - xlog1py(n - k, -p)
        if np.isfinite(known):
            assert test.log_e(k, 0, n) == pytest.approx(float(known), rel=1e-9, abs=1e-7)


@pytest.mark.parametrize("freedom", [1, 2, 3, 19, 38, 589])
def test_the_tails_of_chi_square_are_scipys(freedom: int) -> None:
    """To eight digits, far out too."""
    for x in (0.01, 0.5, 1, 3, 10, 30, 100, 300, 700, 1200):
        known = chi2.sf(x, freedom)
        assert chi_square_tail(x, freedom) == pytest.approx(known, rel=1e-8, abs=1e-250)


def test_homogeneity_is_scipys() -> None:
    """Of tables with two and with three versions."""
    for table in ([[80, 20], [70, 30]], [[5, 6, 7], [9, 8, 1], [3, 3, 3]]):
        known = chi2_contingency(table, correction=False)
        found = homogeneity(dict(zip("abc", row, strict=False)) for row in table)
        assert found
        assert (found.chi_square, found.p) == pytest.approx((known.statistic, known.pvalue))
