"""How many connections a judgement takes: before it is made."""

from __future__ import annotations

import random

import pytest
from support.splits import drawn, judged, rules

from echod.errors import UsageError
from echod.probe.evidence import ShareTest
from echod.probe.fixed import sample_size, sample_size_within
from echod.probe.planning import Bounds, Plan, earliest, exact, limit, plan, simulated
from echod.probe.verdict import Rules, Status


def asked_tests(asked: Rules) -> list[ShareTest]:
    return list(asked.tests.values())


def test_a_plan_is_exact_for_two_shares() -> None:
    """As dynamic programming with forty digits has it."""
    (one,) = asked_tests(rules())
    assert exact(one, 0.75, 20_000).right == pytest.approx(0.0341226, abs=1e-7)
    true = exact(one, 0.8, 20_000)
    assert true.mean == pytest.approx(636.993, abs=1e-3)
    assert true.wrong == pytest.approx(0.0007, abs=5e-5)
    assert sum(true.ends.values()) == pytest.approx(1)
    assert plan([one]) == Plan(least=381, typical=637, p95=1269, cap=6848)


@pytest.mark.parametrize(
    ("expect", "changes", "known"),
    [
        ("one=100,two=0", {}, Plan(least=59, typical=59, p95=59, cap=236)),
        ("one=95,two=5", {}, Plan(least=70, typical=183, p95=443, cap=2640)),
        ("one=99,two=1", {"detect": 0.01}, Plan(least=365, typical=970, p95=2305, cap=13_968)),
        ("one=80,two=20", {"tolerance": 0.05}, Plan(least=915, typical=1307, p95=2155, cap=7272)),
    ],
)
def test_plans_are_known(expect: str, changes: dict[str, float], known: Plan) -> None:
    """For splits that are certain, rare, or to be within a tolerance."""
    assert plan(asked_tests(rules(expect, **changes))) == known


@pytest.mark.parametrize(
    ("share", "changes"),
    [(0.8, {}), (0.5, {"detect": 0.1}), (0.99, {}), (0.8, {"alpha": 0.05, "detect": 0.1})],
)
def test_verdicts_are_wrong_as_rarely_as_promised(share: float, changes: dict[str, float]) -> None:
    """Looked at after each sample: computed, not simulated."""
    asked = rules(f"one={share},two={1 - share}", **changes)
    (one,) = asked_tests(asked)
    true = exact(one, share, 20_000)
    assert true.wrong <= asked.alpha
    assert true.right >= 1 - asked.alpha - 1e-3
    for off in (share - asked.detect, share + asked.detect, 0.0, 1.0):
        if 0 <= off <= 1:
            assert exact(one, off, 20_000).right <= 0.05


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_a_tolerance_is_passed_as_rarely_as_promised(alpha: float) -> None:
    """At its very edge, and far outside; and a split inside is as rarely said to be outside."""
    (one,) = asked_tests(rules(tolerance=0.1, alpha=alpha))
    for off in (0.7, 0.9):
        edge = exact(one, off, 2000)
        assert edge.right <= alpha
        assert edge.wrong <= alpha
    assert exact(one, 0.5, 2000).wrong == pytest.approx(1)
    assert exact(one, 0.8, 2000).right >= 0.95


def test_a_plan_for_three_shares_is_simulated() -> None:
    """Near what many more runs give: 1,217 on average, 2,432 in 95 %."""
    made = plan(asked_tests(rules("a=34,b=33,c=33")))
    assert made.typical == pytest.approx(1217, rel=0.05)
    assert made.p95 == pytest.approx(2432, rel=0.08)


@pytest.mark.parametrize(
    ("expect", "detect", "mean"),
    [("one=80,two=20", 0.019, 4400), ("one=99.95,two=0.05", 0.0005, 19_600)],
)
def test_what_takes_long_to_compute_is_derived_from_what_does_not(
    expect: str, detect: float, mean: int
) -> None:
    """Finer questions and rarer versions take in proportion more connections."""
    made = plan(asked_tests(rules(expect, detect=detect)))
    assert made.typical == pytest.approx(mean, rel=0.03)
    assert made.least <= made.typical <= made.p95 <= made.cap


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


def test_many_versions_have_a_plan() -> None:
    """Of fewer runs, for a coarser question; near what 400 runs for a finer one give, 37,800."""
    made = plan(asked_tests(rules(",".join(f"v{n}=1" for n in range(32)), detect=0.005)))
    assert made.typical == pytest.approx(37_800, rel=0.15)
    assert made.least <= made.typical <= made.p95 <= made.cap


@pytest.mark.parametrize(
    "expect", ["one=80,two=20", "one=99,two=1", "a=50,b=30,c=20", "a=49,b=49,c=2", "a=98,b=1,c=1"]
)
@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_the_earliest_pass_is_one(expect: str, tolerance: float | None) -> None:
    """With the best counts it passes there, and with none before."""
    asked = asked_tests(rules(expect, detect=0.1, tolerance=tolerance))
    least = earliest(asked)

    def passable(total: int) -> bool:
        right = [
            [hits for hits in range(total + 1) if test.is_right(hits, 0, total)] for test in asked
        ]
        if not all(right):
            return False
        low, high = sum(one[0] for one in right), sum(one[-1] for one in right)
        return len(asked) == 1 or low <= total <= high

    assert passable(least)
    assert not any(map(passable, range(1, least)))


@pytest.mark.parametrize("tolerance", [None, 0.1])
@pytest.mark.parametrize("share", [0.8, 0.5, 0.98, 1.0])
def test_bounds_are_where_a_judge_ends(share: float, tolerance: float | None) -> None:
    """For every count of hits, after every number of samples."""
    (one,) = asked_tests(rules(f"one={share},two={1 - share}", detect=0.2, tolerance=tolerance))
    bounds = Bounds(one)
    for total in range(1, 150):
        bounds.step()
        for hits in range(total + 1):
            wrong = hits <= bounds.wrong_to or hits >= bounds.wrong_from
            assert one.is_wrong(hits, 0, total) is wrong
            assert one.is_right(hits, 0, total) is (bounds.right_from <= hits <= bounds.right_to)


def test_simulated_runs_are_those_that_a_judge_ends() -> None:
    """The same on average as runs that are judged sample by sample."""
    asked = rules("a=60,b=20,c=20", detect=0.15)
    made = simulated(asked_tests(asked), [0.6, 0.2, 0.2], 3000, 300)
    chance = random.Random(1)
    shares = {"a": 0.6, "b": 0.2, "c": 0.2}
    ends = [judged(asked, drawn(chance, shares), 3000) for _ in range(60)]
    mean = sum(one.judged for one in ends) / len(ends)
    assert made.mean == pytest.approx(mean, rel=0.2)
    assert made.right > 0.9
    assert made == simulated(asked_tests(asked), [0.6, 0.2, 0.2], 3000, 300)


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
