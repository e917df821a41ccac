"""The sums of a watch: when they raise an alarm, and when they show that a share is back."""

from __future__ import annotations

import random
from itertools import count, repeat

import pytest
from support.splits import drawn

from echod.watch.sums import ROOM, Departure, Return, mean

YEAR = 365 * 86_400
DAY = 86_400


def found(hits: object, share: float = 0.8, shift: float = 0.05, threshold: float = YEAR) -> int:
    """The sample at which an alarm is raised."""
    sums = Departure(share, shift)
    names = iter(hits)  # type: ignore[call-overload]
    for number in count(1):
        sums.add(hit=next(names))
        if sums.mean >= threshold:
            return number
    raise AssertionError


def chance(share: float, seed: int) -> object:
    drawn_names = drawn(random.Random(seed), {"hit": share, "miss": 1 - share})
    return (name == "hit" for name in drawn_names)


def test_a_dead_version_is_found_as_soon_as_designed() -> None:
    """At a sample a second and a false alarm a year: v2 after 75 s, v1 after 12 s."""
    assert found(repeat(True)) - 1 == 75
    assert found(repeat(False)) - 1 == 12


@pytest.mark.parametrize(("truth", "seconds", "runs"), [(0.5, 77, 100), (0.7, 515, 20)])
def test_a_share_that_is_off_is_found_as_soon_as_designed(
    truth: float, seconds: int, runs: int
) -> None:
    """On average, of simulated watches with fixed seeds; make test-real takes more of them."""
    took = [found(chance(truth, seed)) - 1 for seed in range(runs)]
    assert sum(took) / runs == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_false_alarms_are_at_least_as_rare_as_promised(share: float) -> None:
    """The mean run of a split as expected is no shorter than the threshold."""
    threshold = 200
    took = [found(chance(share, seed), share, 0.05, threshold) for seed in range(150)]
    assert sum(took) / len(took) >= threshold


def test_the_mean_is_of_all_shares() -> None:
    """So that a watch of many versions alarms no more often by mistake than one of two."""
    one, other = Departure(0.5, 0.05), Departure(0.5, 0.05)
    assert mean([]) == 0
    for _ in range(10):
        one.add(hit=True)
        other.add(hit=False)
    assert mean([one, other]) == pytest.approx(one.mean)
    assert mean([one]) == one.mean


def returned(share: float, truth: float, seed: int = 0, enough: float = DAY) -> int:
    """The sample at which a share is shown to be back; 0: not within 20,000."""
    sums = Return(share, 0.05, enough)
    hits = iter(chance(truth, seed))  # type: ignore[call-overload]
    for number in range(1, 20_001):
        sums.add(hit=next(hits))
        if sums.is_shown:
            return number
    return 0


def test_a_share_that_is_back_is_shown_to_be() -> None:
    """80 % in some thousand samples, and 100 % in as few as its length says."""
    took = [returned(0.8, 0.8, seed) for seed in range(10)]
    assert 300 < sum(took) / len(took) < 3000
    assert returned(1.0, 1.0) == 164
    assert 0 < returned(0.02, 0.02) < 10_000  # what is off by 5 points below is none at all


@pytest.mark.parametrize("truth", [0.74, 0.86])
def test_a_share_that_is_still_off_is_not_shown_to_be_back(truth: float) -> None:
    """On neither side, though one of the sums grows without end."""
    assert not any(returned(0.8, truth, seed) for seed in range(5))


def test_a_share_that_leaves_to_the_other_side_is_not_shown_to_be_back() -> None:
    """A sum that has grown for a week does not stay high for another."""
    sums = Return(0.8, 0.05, DAY)
    for _ in range(100_000):
        sums.add(hit=True)
    assert max(sums._sums) == ROOM * DAY
    hits = iter(chance(0.7, 1))  # type: ignore[call-overload]
    for _ in range(5000):
        sums.add(hit=next(hits))
        assert not sums.is_shown


def test_sums_stay_finite_whatever_comes() -> None:
    """Where an alternative is none at all or all, and after a million samples of one kind."""
    for share, shift in ((1.0, 1.0), (0.97, 0.05), (0.03, 0.05), (1e-6, 0.05)):
        back = Return(share, shift, DAY)
        for hit in (True, False, True, True):
            back.add(hit=hit)
            assert all(0 <= one <= ROOM * DAY for one in back._sums)
