"""The probe's evidence beside values that were computed with forty digits, and its promises."""

from __future__ import annotations

import math
import random
from itertools import cycle, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.splits import FAILED, drawn, judged, rules

from echod.probe.evidence import ShareTest
from echod.probe.verdict import Status


def share_test(share: float = 0.8, shift: float = 0.05, alpha: float = 0.001) -> ShareTest:
    return rules(f"a={share},b={1 - share}", detect=shift, alpha=alpha).test(share)


@pytest.mark.parametrize(
    ("hits", "total", "known"),
    [
        (40, 40, 7.09138701958),
        (39, 39, 6.87679571854),
        (0, 7, 7.11868807311),
        (25, 50, 8.19003440149),
        (80, 100, -1.18775663823),
        (1284, 1712, 9.81416819975),
    ],
)
def test_the_evidence_against_is_what_exact_arithmetic_gives(
    hits: int, total: int, known: float
) -> None:
    """To nine digits; from the other version's side it is the same."""
    assert share_test(0.8).log_e(hits, 0, total) == pytest.approx(known, abs=1e-9)
    assert share_test(0.2).log_e(total - hits, 0, total) == pytest.approx(known, abs=1e-9)


@pytest.mark.parametrize(
    ("pattern", "status", "at"),
    [
        ("1", Status.DIFFERS, 40),
        ("2", Status.DIFFERS, 7),
        ("12", Status.DIFFERS, 44),
        ("1112", Status.DIFFERS, 1300),
        ("11112", Status.HOLDS, 399),
        ("21111", Status.HOLDS, 430),
    ],
)
def test_a_verdict_falls_at_the_very_sample(pattern: str, status: Status, at: int) -> None:
    """For sequences that repeat."""
    names = {"1": "one", "2": "two"}
    made = judged(rules(), (names[letter] for letter in cycle(pattern)))
    assert (made.status, made.stopped_at) == (status, at)


def test_the_counts_that_end_a_run_are_known() -> None:
    """After a thousand samples."""
    one = share_test()
    wrong = [hits for hits in range(1001) if one.is_wrong(hits, 0, 1000)]
    assert [hits for hits in range(1001) if hits not in wrong] == list(range(743, 853))
    assert [hits for hits in range(1001) if one.is_right(hits, 0, 1000)] == list(range(787, 818))


def test_a_split_that_is_certain_takes_as_many_as_it_ever_took() -> None:
    """Less than one in twenty of its samples may be others'."""
    for detect, least in ((0.05, 59), (0.01, 299)):
        made = judged(rules("one=100,two=0", detect=detect), cycle(["one"]))
        assert (made.status, made.stopped_at) == (Status.HOLDS, least)


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(80, 100, 0.6130264508, 0.9255161467), (1363, 1712, 0.7519474204, 0.8360386775)],
)
def test_intervals_are_what_exact_arithmetic_gives(
    hits: int, total: int, low: float, high: float
) -> None:
    """To ten digits."""
    assert share_test().interval(hits, 0, total) == pytest.approx((low, high), abs=1e-9)


COUNTS = st.tuples(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 300))
SHARES = st.sampled_from([0.0001, 0.01, 0.2, 1 / 3, 0.5, 0.8, 0.99, 1.0])


@settings(max_examples=100, deadline=None)
@given(COUNTS, SHARES, st.sampled_from([0.01, 0.05, 0.3]), st.sampled_from(["detect", "tolerance"]))
def test_verdict_and_interval_never_contradict_each_other(
    counts: tuple[int, int, int], share: float, shift: float, kind: str
) -> None:
    """A share is wrong just when the interval leaves it out, or all that is near enough."""
    hits, misses, failed = counts
    total = hits + misses + failed
    one = rules("a=1,b=1", **{kind: shift}).test(share)
    low, high = one.interval(hits, failed, total)
    assert 0 <= low <= high <= 1
    near = min(abs(low - one.high), abs(high - one.low))
    if total and near > 1e-9:
        outside = low > one.high or high < one.low
        assert one.is_wrong(hits, failed, total) is outside
    if one.tolerant and one.is_wrong(hits, failed, total):
        assert not one.is_right(hits, failed, total)


@pytest.mark.parametrize("failed", [0, 1, 10, 100])
def test_failures_count_in_the_worst_way(failed: int) -> None:
    """No reading of them may be better than what is said of all."""
    one = share_test()
    for hits in range(0, 501 - failed, 7):
        readings = [one.log_e(hits + some, 0, 500) for some in range(failed + 1)]
        assert one.log_e(hits, failed, 500) <= max(0.0, min(readings)) + 1e-12
        if one.is_wrong(hits, failed, 500):
            assert min(readings) >= one.against
        if one.is_right(hits, failed, 500):
            assert all(one.is_right(hits + some, 0, 500) for some in range(failed + 1))
        ends = [one.interval(hits + some, 0, 500) for some in range(failed + 1)]
        low, high = one.interval(hits, failed, 500)
        assert low == pytest.approx(min(end[0] for end in ends), abs=1e-9)
        assert high == pytest.approx(max(end[1] for end in ends), abs=1e-9)


def test_a_split_far_outside_never_passes_as_within_a_tolerance() -> None:
    """However likely the counts are if the share is neither what is expected nor at the edge."""
    one = rules(tolerance=0.05).test(0.8)
    for total in (10, 100, 1000, 10_000, 1_000_000):
        for share in (0.0, 0.3, 0.5, 0.7, 0.74, 0.86, 0.9, 1.0):
            assert not one.is_right(round(share * total), 0, total)


def test_an_interval_holds_the_truth_whenever_a_run_ends() -> None:
    """Of 100 runs, looked at after each of 500 samples, at most alpha ever leaves it out."""
    chance, one, missed = random.Random(2026), share_test(alpha=0.05), 0
    for _ in range(100):
        hits = 0
        for total, name in enumerate(islice(drawn(chance, {"a": 0.77, "b": 0.23}), 500), 1):
            hits += name == "a"
            level = one.log_e(hits, 0, total)
            # The evidence against the truth, as the interval has it.
            against = level + math.log(0.8 / 0.77) * hits + math.log(0.2 / 0.23) * (total - hits)
            if against >= one.against:
                missed += 1
                break
    assert missed <= 100 * 0.05 + 3 * math.sqrt(100 * 0.05)


def test_failures_without_an_answer_leave_a_certain_split_alone() -> None:
    """They are no other version's answers."""
    made = judged(rules("one=100,two=0", max_errors=50), cycle(["one", "one", FAILED]))
    assert (made.status, made.tally.answered) == (Status.HOLDS, 59)
