"""A split that is waited for: starts, and what comes of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import chain, cycle, islice, repeat

import pytest
from support.splits import FAILED, drawn, outcome, rules, split, waited

from echod.probe.verdict import Judgement, Status
from echod.probe.waiting import Waiting


def test_a_change_from_one_side_to_the_other_is_no_arrival() -> None:
    """Each start that has seen both is given up, as its samples have not one share."""
    for seed in range(3):
        halves = (islice(split(0.9, seed), 2000), islice(split(0.7, seed), 2000))
        assert waited(chain(*halves)).status is not Status.HOLDS


def test_new_weights_that_arrive_are_no_affinity() -> None:
    """The diagnostics look at the part that is judged."""
    judge = Waiting(rules(tolerance=0.05), 20)
    samples = enumerate(chain(repeat("one", 1500), split(0.8, 7)))
    while not judge.take(outcome((sample := next(samples))[1], began=sample[0] / 800)):
        pass
    made = judge.conclude(20.0)
    assert made.status is Status.HOLDS
    assert made.independence.runs
    whole = judge.order.said()
    assert whole
    assert whole.z < -4 < made.independence.runs.z


def test_a_version_that_must_not_be_there_ends_every_start_and_not_the_wait() -> None:
    """It may belong to the old weights."""
    made = waited(chain(["two"] * 300, repeat("one")), expect="one=100,two=0", seconds=10)
    assert (made.status, made.rows[1].seen) == (Status.HOLDS, 0)
    made = waited(cycle(["one"] * 50 + ["two"]), expect="one=100,two=0", seconds=10)
    assert (made.status, made.rows[1].verdict) == (Status.DIFFERS, "forbidden")


def test_a_version_that_must_not_be_there_and_comes_last_turns_a_pass() -> None:
    """One that was under way when it fell."""
    judge = Waiting(rules("one=100,two=0", tolerance=0.05), 10)
    while not judge.take(outcome("one")):
        pass
    assert judge.conclude(1.0).status is Status.HOLDS
    made = judge.conclude(1.0, [outcome("two")])
    assert (made.status, made.later) == (Status.DIFFERS, {"two": 1})


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (cycle(["one"]), Status.DIFFERS),
        (cycle(["one"] * 85 + ["two"] * 15), Status.INCONCLUSIVE),
        (chain(["one"] * 3000, cycle(["one"] * 4 + ["two"])), Status.INCONCLUSIVE),
        (chain(["one"] * 3000, cycle(["three"])), Status.DIFFERS),
        (cycle([FAILED]), Status.ERRORS),
    ],
)
def test_without_a_pass_the_last_quarter_is_the_verdict(
    names: Iterable[str], status: Status
) -> None:
    """What is outside then has not come; what is unclear may yet."""
    made = waited(names)
    assert (made.status, made.stopped_at) == (status, None)
    assert 900 <= made.judged <= 1000


def test_failures_end_a_start_and_not_the_wait() -> None:
    """A service that is not there yet is waited for; a few that are allowed end nothing."""
    late = chain([FAILED] * 300, split(0.8))
    assert waited(late, seconds=60).status is Status.HOLDS
    some = cycle([FAILED, *["one", "one", "one", "one", "two"] * 100])
    assert waited(some, max_errors=30, seconds=60).status is Status.HOLDS
    failing = drawn(random.Random(1), {"one": 0.9, FAILED: 0.1})
    made = waited(failing, expect="one=90,error=10", seconds=60)
    assert made.status is Status.HOLDS


def test_an_interrupted_wait_is_judged_by_its_own_last_quarter() -> None:
    """Whatever time there would have been."""
    made = waited(cycle(["one"]), seconds=100, samples=2000)
    assert made.status is Status.DIFFERS
    assert 400 <= made.judged <= 600
    judge = Waiting(rules(tolerance=0.05), 100)
    judge.take(outcome("one", 0.009))
    assert judge.conclude(0.01).status is Status.INCONCLUSIVE
    nothing = waited([], seconds=100, samples=0)
    assert (nothing.status, nothing.judged) == (Status.INCONCLUSIVE, 0)


def test_short_waits_have_a_start_and_long_ones_three_hundred() -> None:
    """One a second at most."""
    assert Waiting(rules(tolerance=0.05), 0.3)._most == 1
    assert Waiting(rules(tolerance=0.05), 60)._most == 60
    judge = Waiting(rules(tolerance=0.05), 86_400)
    for minute in range(1440):
        judge.take(outcome("one", 60.0 * minute))
    assert judge._most == 300
    assert len(judge._marks) <= 302


def sides(made: Judgement) -> Sequence[str]:
    return [row.verdict for row in made.rows]


def test_a_pass_says_of_each_version_that_it_is_within() -> None:
    """With the interval of the samples since its start."""
    made = waited(split(0.8), seconds=60)
    assert sides(made) == ["within", "within"]
    assert 0.74 < made.rows[0].low < 0.8 < made.rows[0].high < 0.86
