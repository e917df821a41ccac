from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from functools import cache
from math import comb

import pytest

from echod.errors import UsageError
from echod.probe.binomial import at_least, at_most, interval, least_above, most_below, p_value
from echod.probe.expectation import Expectation, parse
from echod.probe.planning import detectable, sample_size, sample_size_within
from echod.probe.tally import MAX_NAMES, OTHER, Latencies, Outcome, Tally
from echod.probe.verdict import Judgement, Rules, Status, judge

CHANCES = [Fraction(1, 1000), Fraction(1, 5), Fraction(1, 2), Fraction(4, 5), Fraction(999, 1000)]


def rules(expect: str = "one=80,two=20", **changes: float | None) -> Rules:
    given: dict[str, float | None] = {"alpha": 0.001, "detect": 0.05, "tolerance": None}
    given |= changes
    return Rules(
        expectation=parse([expect]) if expect else None,
        alpha=given["alpha"] or 0,
        detect=given["detect"] or 0,
        tolerance=given["tolerance"],
        max_errors=int(given.get("max_errors") or 0),
    )


def tally(*failures: str, **seen: int) -> Tally:
    made = Tally()
    for name, count in seen.items():
        made.versions[name] += count
    for kind in failures:
        made.add(Outcome(None, kind, "what it was"))
    return made


def verdicts(judgement: Judgement) -> dict[str, str]:
    return {row.name: row.verdict for row in judgement.rows}


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


@pytest.mark.parametrize("shares", [(0.8,), (0.5,), (1.0,), (0.99,), (0.6, 0.2, 0.2)])
def test_a_plan_is_the_smallest_number_that_lasts(shares: tuple[float, ...]) -> None:
    """One less finds less; one more never does."""
    n = sample_size(shares, 0.0005, 0.1)
    for more in range(n, n + 60):
        found = detectable(more, shares, 0.0005)
        assert found is not None
        assert found <= 0.1 + 1e-5
    found = detectable(n - 1, shares, 0.0005)
    assert found is None or found > 0.1 - 1e-5


@pytest.mark.parametrize("expect", ["one=99,two=1", "one=80,two=20", "one=50,two=50"])
@pytest.mark.parametrize("detect", [0.005, 0.01, 0.03])
def test_a_planned_run_is_never_inconclusive(expect: str, detect: float) -> None:
    """What is exactly as expected holds, with the planned number and with more."""
    asked = rules(expect, detect=detect)
    assert asked.expectation
    planned = asked.plan()
    for n in (planned, planned + 1, 2 * planned):
        ones = round(n * asked.expectation.shares["one"])
        assert judge(tally(one=ones, two=n - ones), asked).status is Status.HOLDS


def test_few_connections_find_no_shift_at_all() -> None:
    """One connection contradicts nothing but a certainty."""
    assert detectable(1, (0.8,), 0.0005) is None


def test_impossible_plans_are_refused() -> None:
    """A thousandth of a point takes more connections than anybody makes."""
    with pytest.raises(UsageError, match="more than 10,000,000 connections"):
        sample_size((0.5,), 0.0005, 0.0001)


@cache
def simulated(truth: float, expect: str, n: int, alpha: float) -> Counter[Status]:
    """What 2,000 runs come to; a fixed seed."""
    chance, made = random.Random(2026), Counter[Status]()
    asked = rules(expect, alpha=alpha)
    known: dict[int, Status] = {}
    for _ in range(2000):
        ones = sum(chance.random() < truth for _ in range(n))
        if ones not in known:
            known[ones] = judge(tally(one=ones, two=n - ones), asked).status
        made[known[ones]] += 1
    return made


def test_a_split_as_expected_is_rejected_as_rarely_as_promised() -> None:
    """At alpha 5 %, at most 5 % of 2,000 runs, and what chance adds to that."""
    n = rules(alpha=0.05, detect=0.1).plan()
    assert simulated(0.8, "one=80,two=20", n, 0.05)[Status.DIFFERS] <= 2000 * 0.05 + 30


@pytest.mark.parametrize("direction", [-1, 1])
def test_a_shift_of_the_detectable_size_is_found_as_often_as_promised(direction: int) -> None:
    """In either direction, 95 % of 2,000 runs, and what chance takes off that."""
    n = rules(alpha=0.05, detect=0.1).plan()
    shift = detectable(n, (0.8,), 0.025)
    assert shift is not None
    truth = 0.8 + direction * shift
    assert simulated(truth, "one=80,two=20", n, 0.05)[Status.DIFFERS] >= 2000 * 0.95 - 30


def test_looking_again_and_again_passes_a_wrong_split_as_rarely_as_promised() -> None:
    """The truth just outside the tolerance, eight looks each: at most alpha ever passes."""
    chance = random.Random(2026)
    asked = rules(alpha=0.05, tolerance=0.1)
    looks = [(asked.look(k), asked.look(k).plan()) for k in range(1, 9)]
    known: dict[tuple[int, int], Status] = {}
    ever = 0
    for _ in range(300):
        for number, (strict, n) in enumerate(looks):
            ones = sum(chance.random() < 0.7 for _ in range(n))
            if (number, ones) not in known:
                known[number, ones] = judge(tally(one=ones, two=n - ones), strict).status
            if known[number, ones] is Status.HOLDS:
                ever += 1
                break
    assert ever <= 300 * 0.05 + 12
    assert sum(strict.alpha for strict, _ in looks) < asked.alpha


@pytest.mark.parametrize("expect", ["one=80,two=20", "a=50,b=30,c=20"])
def test_a_true_split_is_shown_to_be_within_tolerance(expect: str) -> None:
    """With the planned number, in 95 % of 200 runs, and what chance takes off that."""
    chance = random.Random(2026)
    asked = rules(expect, alpha=0.01, tolerance=0.1)
    expectation = asked.expectation
    assert expectation
    names, n, held = list(expectation.shares), asked.plan(), 0
    for _ in range(200):
        drawn = Counter(chance.choices(names, list(expectation.shares.values()), k=n))
        held += judge(tally(**drawn), asked).status is Status.HOLDS
    assert held >= 200 * 0.95 - 9


def test_three_shares_together_are_rejected_as_rarely_as_promised() -> None:
    """Three tests at once, 400 runs: at most alpha of them reject any."""
    chance, asked, rejected = random.Random(2026), rules("a=70,b=20,c=10", alpha=0.05), 0
    for _ in range(400):
        drawn = Counter(chance.choices("abc", [70, 20, 10], k=100))
        rejected += judge(tally(**drawn), asked).status is Status.DIFFERS
    assert rejected <= 400 * 0.05 + 13


def test_twenty_connections_of_an_even_split_never_pass_as_80_20() -> None:
    """Whatever they show: they are rejected, or they are too few."""
    asked = rules()
    for ones in range(21):
        status = judge(tally(one=ones, two=20 - ones), asked).status
        assert status in (Status.DIFFERS, Status.INCONCLUSIVE)


def test_enough_connections_that_fit_hold() -> None:
    """And the verdict says of each version that it is as expected."""
    made = judge(tally(one=1370, two=342), rules())
    assert (made.status, verdicts(made)) == (
        Status.HOLDS,
        {"one": "as expected", "two": "as expected"},
    )
    assert made.detectable is not None
    assert made.detectable <= 0.05


def test_the_most_unlikely_share_is_judged_first() -> None:
    """Holm: the next ones have fewer beside them, and none is off behind one that is not."""
    made = judge(tally(a=500, b=300, c=200), rules("a=50,b=40,c=10"))
    assert verdicts(made) == {"a": "as expected", "b": "off", "c": "off"}
    assert made.status is Status.DIFFERS


@pytest.mark.parametrize("tolerance", [None, 0.05])
def test_one_connection_to_what_must_not_be_there_is_too_many(tolerance: float | None) -> None:
    """A version with share 0, and one that nobody named."""
    asked = rules("one=100,two=0", tolerance=tolerance)
    assert verdicts(judge(tally(one=1000, two=0), asked))["two"] == "absent"
    forbidden = judge(tally(one=1000, two=1), asked)
    assert (forbidden.status, verdicts(forbidden)["two"]) == (Status.DIFFERS, "forbidden")
    unexpected = judge(tally(one=1000, three=1), asked)
    assert (unexpected.status, verdicts(unexpected)["three"]) == (Status.DIFFERS, "unexpected")


def test_names_without_a_place_are_counted_as_others() -> None:
    """However many there are, and an expected one always has a place."""
    many = Tally(["one"])
    for number in range(1000):
        many.add(Outcome(f"name {number}"))
    many.add(Outcome("one"))
    assert len(many.versions) == MAX_NAMES
    assert (many.answered, many.beyond, many.versions["one"]) == (1001, 1001 - MAX_NAMES, 1)
    assert verdicts(judge(many, rules()))[OTHER] == "unexpected"
    assert judge(many, rules("")).rows[-1].name == OTHER


@pytest.mark.parametrize(
    ("ones", "verdict", "status"),
    [
        (1600, "within", Status.HOLDS),
        (1650, "unclear", Status.INCONCLUSIVE),
        (1900, "outside", Status.DIFFERS),
        (1200, "outside", Status.DIFFERS),
    ],
)
def test_tolerance_asks_for_proof(ones: int, verdict: str, status: Status) -> None:
    """The interval must lie inside; only one that lies outside contradicts."""
    made = judge(tally(one=ones, two=2000 - ones), rules(tolerance=0.05))
    assert (made.status, verdicts(made)["one"]) == (status, verdict)


def test_errors_beyond_those_allowed_are_a_verdict_of_their_own() -> None:
    """Whatever the split is; those that are allowed do not count towards it."""
    good = tally("refused", "reset", one=1370, two=342)
    assert judge(good, rules()).status is Status.ERRORS
    assert judge(good, rules(max_errors=2)).status is Status.HOLDS
    assert judge(good, rules(max_errors=2)).judged == 1712
    assert judge(tally("reset"), rules("")).status is Status.ERRORS


def test_errors_can_have_a_share() -> None:
    """Then they are judged like a version."""
    failing = tally(*["reset"] * 150, one=1350)
    assert judge(failing, rules("one=90,error=10")).status is Status.HOLDS
    assert judge(failing, rules("one=50,error=50")).status is Status.DIFFERS
    assert verdicts(judge(failing, rules("one=1,error=0")))["error"] == "forbidden"


def test_nothing_counted_is_no_proof() -> None:
    """Neither for nor against."""
    for tolerance in (None, 0.05):
        assert judge(Tally(["one"]), rules(tolerance=tolerance)).status is Status.INCONCLUSIVE


def test_without_an_expectation_there_are_intervals_alone() -> None:
    """Of three versions each is wider, so that all together are right as often."""
    two = judge(tally(a=50, b=50), rules(""))
    three = judge(tally(a=50, b=25, c=25), rules(""))
    assert two.status is three.status is Status.HOLDS
    assert three.rows[0].low < two.rows[0].low < 0.5
    assert rules("").plan() == 200


@pytest.mark.parametrize(
    ("texts", "shares", "failures"),
    [
        (["one=80,two=20"], {"one": 0.8, "two": 0.2}, None),
        (["one=4", "two=1"], {"one": 0.8, "two": 0.2}, None),
        (["one=0.5%,two=1.5%"], {"one": 0.25, "two": 0.75}, None),
        (["a b=1, c=0"], {"a b": 1.0, "c": 0.0}, None),
        ([r"x\,y=z=1"], {"x,y=z": 1.0}, None),
        (["one=95,error=5"], {"one": 0.95}, 0.05),
    ],
)
def test_shares_come_in_any_unit(
    texts: list[str], shares: dict[str, float], failures: float | None
) -> None:
    """Names may hold spaces, equal signs and, escaped, commas."""
    made = parse(texts)
    assert made.shares == pytest.approx(shares)
    assert made.failures == pytest.approx(failures)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one", "--expect 'one': must be NAME=SHARE"),
        ("=80", "--expect '=80': must be NAME=SHARE"),
        ("", "--expect '': must be NAME=SHARE"),
        ("one=80,", "--expect '': must be NAME=SHARE"),
        ("one=-1", "--expect 'one=-1': must have a share from 0 to"),
        ("one=nan", "--expect 'one=nan': must have a share"),
        ("one=inf", "--expect 'one=inf': must have a share"),
        ("one=1_0", "--expect 'one=1_0': must have a share"),
        ("one=1e308,two=1", "--expect 'one=1e308': must have a share from 0 to 1,000,000,000,000"),
        ("one=x", "--expect 'one=x': must have a share"),
        ("one=0,two=0", "--expect 'one=0,two=0': must have a share over 0"),
        ("one=1,one=2", "--expect 'one=2': must name each version once"),
        (",".join(f"v{n}=1" for n in range(33)), "must name 32 versions at most"),
    ],
)
def test_wrong_shares_are_named(text: str, message: str) -> None:
    """With the part that is wrong, and what is allowed."""
    with pytest.raises(UsageError) as caught:
        parse([text])
    assert message in str(caught.value)


def test_two_shares_are_one_test() -> None:
    """What one is off, the other is too: halving the level would be for nothing."""
    assert parse(["one=80,two=20"]).tested == pytest.approx((0.8,))
    assert parse(["one=1,two=0"]).tested == (1.0,)
    assert parse(["one=95,error=5"]).tested == pytest.approx((0.95,))
    assert Expectation({"a": 0.5, "b": 0.25, "c": 0.25}, None).tested == (0.5, 0.25, 0.25)


def test_latencies_are_known_to_two_per_cent() -> None:
    """In bounded memory, and nothing is known of none."""
    times = Latencies()
    assert times.quantile(0.5) is None
    for number in range(1, 1001):
        times.add(number / 1000)
    times.add(0)
    assert times.quantile(0.5) == pytest.approx(0.5, rel=0.02)
    assert times.quantile(0.99) == pytest.approx(0.99, rel=0.02)
    assert times.quantile(0) == pytest.approx(1e-9, rel=0.02)


def test_tolerance_takes_more_connections_than_a_test() -> None:
    """Proof that it holds is dearer than no proof that it does not."""
    for share in (0.8, 0.03, 0.97):
        assert sample_size_within((share,), 0.0005, 0.05) > sample_size((share,), 0.0005, 0.05)
