"""How many connections a judgement takes: before it is made."""

from __future__ import annotations

import random

import pytest
from support.splits import asked_tests, drawn, judged, rules

from echod.errors import UsageError
from echod.probe.fixed import sample_size, sample_size_within
from echod.probe.planning import Plan, exact, limit, plan, simulated
from echod.probe.verdict import Status


@pytest.mark.parametrize(
    ("expect", "changes", "known"),
    [
        ("one=100,two=0", {}, Plan(least=59, typical=59, p95=59, cap=236)),
        ("one=95,two=5", {}, Plan(least=70, typical=183, p95=443, cap=2640)),
        ("one=99,two=1", {"detect": 0.01}, Plan(least=365, typical=970, p95=2305, cap=13_968)),
        ("one=97,two=3", {"detect": 0.008}, Plan(least=2726, typical=4544, p95=9220, cap=50_156)),
        ("one=80,two=20", {"tolerance": 0.05}, Plan(least=915, typical=1307, p95=2155, cap=7272)),
    ],
)
def test_plans_are_known(expect: str, changes: dict[str, float], known: Plan) -> None:
    """For splits that are certain, rare, or to be within a tolerance."""
    assert plan(asked_tests(rules(expect, **changes))) == known


def test_a_rarer_version_than_can_be_computed_has_a_plan() -> None:
    """The cap has room to find that it is dead."""
    made = plan(asked_tests(rules("one=999999,two=1")))
    assert made.cap == 8_698_531
    assert made.typical > 500_000


@pytest.mark.parametrize("each", [0.002, 0.001, 1e-6])
def test_several_rare_versions_take_as_long_as_the_last_of_them(each: float) -> None:
    """However rare: each is seen after 1/share on average, and the last of three after 11/6 of it.

    Of 400 simulated runs the mean is that to some 4 %.
    """
    made = plan(asked_tests(rules(f"a={1 - 3 * each},b={each},c={each},d={each}")))
    assert made.typical == pytest.approx(11 / 6 / each, rel=0.12)
    assert made.p95 == pytest.approx(4.07 / each, rel=0.15)
    assert made.least <= made.typical <= made.p95 <= made.cap


def test_a_cap_ends_simulated_runs() -> None:
    """So many and no more."""
    made = simulated(asked_tests(rules("a=1,b=1,c=1")), [1 / 3] * 3, 50, 20)
    assert made.ends == {50: pytest.approx(1.0)}
    assert exact(asked_tests(rules())[0], 0.8, 30).ends[30] == pytest.approx(1, abs=0.01)


def test_the_cap_has_room_for_what_is_rare() -> None:
    """Four times what a fixed number takes, or enough to see that a version is dead."""
    assert limit(asked_tests(rules())) == 4 * 1712
    assert limit(asked_tests(rules("one=999,two=1"))) == 8699
    assert limit(asked_tests(rules("a=34,b=33,c=33"))) == 4 * 2560
    assert limit(asked_tests(rules(tolerance=0.05))) == 4 * 1818


def test_most_true_splits_pass_before_the_cap() -> None:
    """Rare versions too."""
    chance = random.Random(2026)
    asked = rules("one=99,two=1")
    cap = limit(asked_tests(asked))
    shares = {"one": 0.99, "two": 0.01}
    ended = [judged(asked, drawn(chance, shares), cap).status for _ in range(60)]
    assert ended.count(Status.HOLDS) >= 57


@pytest.mark.parametrize(("shares", "size"), [((0.8,), 459), ((0.5,), 615), ((0.99,), 105)])
def test_a_fixed_number_is_the_smallest_that_lasts(shares: tuple[float, ...], size: int) -> None:
    """As it was printed before judgements were sequential."""
    assert sample_size(shares, 0.0005, 0.1) == size


def test_proof_takes_more_connections_than_no_proof_to_the_contrary() -> None:
    """At the same distance."""
    for share in (0.8, 0.03, 0.97):
        assert sample_size_within((share,), 0.0005, 0.05) > sample_size((share,), 0.0005, 0.05)


def test_impossible_plans_are_refused() -> None:
    """A thousandth of a point takes more connections than anybody makes."""
    with pytest.raises(UsageError, match="more than 10,000,000 connections"):
        limit(asked_tests(rules("a=1,b=1", detect=0.00001)))
