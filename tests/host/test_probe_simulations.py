"""The probe's promises over many simulated runs, with fixed seeds, and over very long ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
from support.splits import FAILED, drawn, outcome, rules, share_of

from echod.probe.planning import Stops, exact, limit, simulated
from echod.probe.tally import Outcome
from echod.probe.verdict import Rules, Status
from echod.probe.waiting import Waiting
from echod.watch.sums import Departure


def ended(asked: Rules, truth: float, cap: int = 200_000) -> Stops:
    (one,) = asked.tests.values()
    return exact(one, truth, cap)


@pytest.mark.parametrize(
    ("expect", "detect", "truth", "mean", "median", "p95", "differs"),
    [
        (80, 5, 80, 637, 525, 1269, 0.0007),
        (80, 5, 75, 1181, 1112, 2247, 0.966),
        (80, 5, 70, 326, 307, 616, 1),
        (80, 5, 50, 43, 41, 81, 1),
        (80, 5, 100, 40, 40, 40, 1),
        (95, 5, 95, 183, 139, 443, 0.0006),
        (95, 5, 90, 445, 418, 870, 0.952),
        (99, 1, 99, 970, 780, 2305, 0.0007),
        (99, 1, 98, 2353, 2194, 4605, 0.951),
        (99, 1, 100, 745, 745, 745, 1),
    ],
)
def test_runs_end_when_they_were_designed_to(
    expect: int, detect: int, truth: int, mean: int, median: int, p95: int, differs: float
) -> None:
    """Exactly, by dynamic programming: connections, and how often a split is said to differ."""
    asked = rules(f"one={expect},two={100 - expect}", detect=detect / 100)
    stops = ended(asked, truth / 100)
    assert stops.mean == pytest.approx(mean, abs=1)
    assert (stops.quantile(0.5), stops.quantile(0.95)) == (median, p95)
    assert stops.wrong == pytest.approx(differs, abs=0.0006)


def test_a_tolerance_takes_what_it_was_designed_to() -> None:
    """A true 80/20, within 5 and within 3 points."""
    for tolerance, mean, p95 in ((0.05, 1307, 2155), (0.03, 3628, 5935)):
        stops = ended(rules(tolerance=tolerance), 0.8)
        assert stops.mean == pytest.approx(mean, abs=1)
        assert stops.quantile(0.95) == p95


@pytest.mark.parametrize(
    ("truth", "mean", "differs"),
    [((34, 33, 33), 1217, 0.001), ((39, 30.5, 30.5), 1851, 0.983), ((50, 25, 25), 194, 1)],
)
def test_three_shares_end_when_they_were_designed_to(
    truth: tuple[float, ...], mean: int, differs: float
) -> None:
    """1,000 simulated runs."""
    asked = rules("a=34,b=33,c=33")
    tests = list(asked.tests.values())
    stops = simulated(tests, [one / 100 for one in truth], limit(tests), 1000)
    assert stops.mean == pytest.approx(mean, rel=0.06)
    assert stops.wrong == pytest.approx(differs, abs=0.01)


def test_a_true_split_is_hardly_ever_said_to_differ_in_20_000_connections() -> None:
    """Looked at after each, whether or not it has held before: less than alpha."""
    (one,) = rules().tests.values()
    stops = exact(replace(one, proof=1e9), 0.8, 20_000)
    assert stops.right == 0
    assert 4e-4 < stops.wrong <= 1e-3


def paced(
    names: Iterator[str], changes: list[tuple[float, Iterator[str]]], rate: int
) -> Iterator[Outcome]:
    """Names by their time; from each change on they come from another source."""
    number = 0
    while True:
        began = number / rate
        while changes and began >= changes[0][0]:
            names = changes.pop(0)[1]
        yield outcome(next(names), began)
        number += 1


def waited(first: float, then: float, after: float, seed: int, seconds: int = 60) -> Counter[str]:
    chance = random.Random(seed)
    sources = [drawn(chance, {"one": one, "two": 1 - one}) for one in (first, then)]
    judge = Waiting(rules(tolerance=0.05), seconds)
    stream = paced(sources[0], [(after, sources[1])], 200)
    for one in islice(stream, 200 * seconds):
        if judge.take(one):
            break
    made = judge.conclude(float(seconds))
    return Counter({made.status.name: 1, "samples": made.stopped_at or 0})


def test_waiting_takes_what_it_was_designed_to() -> None:
    """60 s at 200 connections a second: about 1,830 after the weight has arrived."""
    total = sum((waited(1.0, 0.8, 10, seed) for seed in range(20)), Counter[str]())
    assert total["HOLDS"] >= 19
    assert total["samples"] / total["HOLDS"] - 2000 == pytest.approx(1830, rel=0.15)


@pytest.mark.parametrize("then", [0.7, 0.5])
def test_waiting_passes_no_wrong_split_after_another_wrong_one(then: float) -> None:
    """100/0, and then one that is off on the other side."""
    total = sum((waited(1.0, then, 10, seed) for seed in range(20)), Counter[str]())
    assert total["HOLDS"] == 0


@pytest.mark.parametrize("truth", [0.75, 0.85])
def test_waiting_passes_a_split_at_the_edge_as_rarely_as_promised(truth: float) -> None:
    """From any of sixty starts, at most alpha: in 20 runs none, as good as surely."""
    total = sum((waited(truth, truth, 10, seed) for seed in range(20)), Counter[str]())
    assert total["HOLDS"] <= 1


def test_failures_hide_no_version_in_any_run() -> None:
    """75/25 where v2 refuses a quarter: 100 runs of 1,712."""
    shares = {"one": 0.75, "two": 0.1875, FAILED: 0.0625}
    asked = rules(max_errors=10_000)
    assert share_of(Status.HOLDS, asked, shares, 100, 1712) == 0


def watched(truth: float, seed: int, threshold: float = 365 * 86_400) -> int:
    """The second at which a watch of 80/20 raises its alarm, at a sample a second."""
    sums = Departure(0.8, 0.05)
    names = drawn(random.Random(seed), {"one": truth, "two": 1 - truth})
    for second, name in enumerate(names):
        sums.add(hit=name == "one")
        if sums.mean >= threshold:
            return second
    raise AssertionError


@pytest.mark.parametrize(
    ("truth", "seconds", "runs"), [(0.5, 77, 400), (0.7, 515, 150), (0.75, 1757, 60)]
)
def test_a_watch_finds_what_is_off_when_it_was_designed_to(
    truth: float, seconds: int, runs: int
) -> None:
    """On average, at a false alarm a year."""
    took = [watched(truth, seed) for seed in range(runs)]
    assert sum(took) / runs == pytest.approx(seconds, rel=0.1)


def test_a_watch_s_false_alarms_are_as_rare_as_promised() -> None:
    """The mean run to one is the threshold, or longer."""
    took = [watched(0.8, seed, 500) for seed in range(300)]
    assert sum(took) / 300 >= 500
