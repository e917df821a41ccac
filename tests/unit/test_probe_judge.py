"""The probe's judge: sequences of samples in, a verdict out; and its diagnostics."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import chain, cycle, islice, repeat

import pytest
from support.splits import FAILED, drawn, feed, judged, outcome, rules, share_of, tally

from echod.probe.independence import Order, chi_square_tail, homogeneity, mood
from echod.probe.judge import Sequential
from echod.probe.tally import MAX_NAMES, OTHER
from echod.probe.verdict import Judgement, Status


def verdicts(judgement: Judgement) -> dict[str, str]:
    return {row.name: row.verdict for row in judgement.rows}


@pytest.mark.parametrize(("detect", "at"), [(0.05, 698), (0.01, 745)])
def test_a_dead_canary_never_passes(detect: float, at: int) -> None:
    """A share of 1 % that never answers is found; until then nothing passes."""
    asked = rules("one=99,two=1", detect=detect)
    made = judged(asked, cycle(["one"]))
    assert (made.status, made.stopped_at) == (Status.DIFFERS, at)
    assert judged(asked, cycle(["one"]), cap=at - 1).status is Status.INCONCLUSIVE


def test_failures_hide_no_version() -> None:
    """75/25, where v2 refuses a quarter of its connections: of those that answer it is 80/20."""
    shares = {"one": 0.75, "two": 0.1875, FAILED: 0.0625}
    asked = rules(max_errors=10_000)
    assert share_of(Status.HOLDS, asked, shares, 10, 2000) == 0
    chance = random.Random(1)
    made = judged(asked, drawn(chance, shares), 3000)
    assert made.judged == made.tally.answered + made.tally.failed


@pytest.mark.parametrize(("tolerance", "half"), [(None, 856), (0.05, 700)])
def test_a_split_that_changes_meanwhile_does_not_pass(tolerance: float | None, half: int) -> None:
    """90/10 and then 70/30 is 80/20 on average."""
    ends = []
    for seed in range(10):
        chance = random.Random(seed)
        first, then = (drawn(chance, {"one": one, "two": 1 - one}) for one in (0.9, 0.7))
        ends.append(judged(rules(tolerance=tolerance), chain(islice(first, half), then), 2 * half))
    assert Status.HOLDS not in [made.status for made in ends]
    changed = [made for made in ends if made.changed]
    assert bool(changed) is (tolerance is not None)
    assert all(made.stopped_at is None for made in changed)


def test_a_version_that_must_not_be_there_ends_a_run_at_once() -> None:
    """One with share 0, one that was not named, and a failure where none may be."""
    for tolerance in (None, 0.05):
        asked = rules("one=100,two=0", tolerance=tolerance)
        assert verdicts(judged(asked, ["one"] * 5))["two"] == "absent"
        forbidden = judged(asked, chain(["one"] * 5, cycle(["two"])))
        assert (forbidden.status, forbidden.stopped_at) == (Status.DIFFERS, 6)
        assert verdicts(forbidden)["two"] == "forbidden"
        unexpected = judged(asked, chain(["one"] * 5, cycle(["three"])))
        assert (unexpected.status, verdicts(unexpected)["three"]) == (Status.DIFFERS, "unexpected")
    failed = judged(rules("one=100,error=0"), ["one", FAILED])
    assert (failed.status, verdicts(failed)["error"]) == (Status.DIFFERS, "forbidden")


@pytest.mark.parametrize("wrong", ["two", "three"])
def test_what_must_not_be_there_is_seen_beyond_the_judged_samples(wrong: str) -> None:
    """A sample in progress at the verdict changes it, but not the number where it was reached."""
    judge = Sequential(rules("one=100,two=0"))
    feed(judge, repeat("one"), 100)
    assert judge.conclude(1.0, [outcome("one")]).status is Status.HOLDS
    made = judge.conclude(1.0, [outcome("one"), outcome(wrong), outcome(wrong)])
    assert (made.status, made.stopped_at, made.judged) == (Status.DIFFERS, 59, 59)
    assert made.later == {wrong: 2}
    failed = Sequential(rules("one=100,error=0"))
    feed(failed, repeat("one"), 100)
    assert failed.conclude(1.0, [outcome(FAILED)]).later == {"error": 1}


def test_errors_beyond_those_allowed_are_a_verdict_of_their_own() -> None:
    """Whatever the split is, and at once."""
    asked = rules(max_errors=2)
    made = judged(asked, chain(["one"] * 4, [FAILED] * 3))
    assert (made.status, made.stopped_at) == (Status.ERRORS, 7)
    assert judged(asked, chain(["one", "two"], [FAILED] * 2)).status is Status.INCONCLUSIVE


def test_errors_can_have_a_share() -> None:
    """Then they are judged like a version, by all shares and by none that answered."""
    pattern = [*["one"] * 9, FAILED]
    made = judged(rules("one=90,error=10"), cycle(pattern))
    assert (made.status, verdicts(made)["error"]) == (Status.HOLDS, "as expected")
    assert judged(rules("one=50,error=50"), cycle(pattern)).status is Status.DIFFERS
    dark = judged(rules("one=80,error=20"), cycle([FAILED]))
    assert (dark.status, dark.stopped_at) == (Status.DIFFERS, 7)


def test_a_few_failures_do_not_keep_a_run_from_passing() -> None:
    """Many leave it open, because they may belong to any version."""
    few = [*["one", "one", "one", "one", "two"] * 20, FAILED]
    assert judged(rules(max_errors=1000), cycle(few), 5000).status is Status.HOLDS
    many = [*["one", "one", "one", "one", "two"] * 2, FAILED]
    assert judged(rules(max_errors=1000), cycle(many), 5000).status is Status.INCONCLUSIVE


def test_a_single_share_of_many_that_is_off_is_named() -> None:
    """The others are not; and each of three is tested."""
    pattern = ["a"] * 5 + ["b"] * 4 + ["c"]
    made = judged(rules("a=50,b=40,c=10"), cycle(pattern), 3000)
    assert set(verdicts(made).values()) == {"as expected"}
    made = judged(rules("a=50,b=25,c=25"), cycle(pattern))
    assert made.status is Status.DIFFERS
    assert verdicts(made)["c"] == "off"
    assert verdicts(made)["a"] != "off"


def test_three_shares_together_are_rejected_as_rarely_as_promised() -> None:
    """Three tests at once: at most alpha of the runs reject any."""
    asked = rules("a=70,b=20,c=10", alpha=0.05, detect=0.1)
    shares = {"a": 0.7, "b": 0.2, "c": 0.1}
    assert share_of(Status.DIFFERS, asked, shares, 40) <= 0.05 + 0.1


@pytest.mark.parametrize("pattern", [["one"] * 4 + ["two"], ["one"] * 85 + ["two"] * 15])
def test_a_tolerance_asks_for_proof(pattern: list[str]) -> None:
    """At its edge there is none; in its middle there is."""
    random.Random(2026).shuffle(pattern)
    made = judged(rules(tolerance=0.05), cycle(pattern), 4000)
    held = pattern.count("two") * 5 == len(pattern)
    assert made.status is (Status.HOLDS if held else Status.INCONCLUSIVE)
    assert verdicts(made)["one"] == ("within" if held else "unclear")
    outside = judged(rules("one=1,two=1", tolerance=0.05), cycle(pattern), 4000)
    assert (outside.status, verdicts(outside)["two"]) == (Status.DIFFERS, "outside")


def test_nothing_judged_is_no_proof() -> None:
    """Neither for nor against."""
    for tolerance in (None, 0.05):
        made = judged(rules(tolerance=tolerance), [])
        assert (made.status, made.stopped_at, made.rows[0].high) == (Status.INCONCLUSIVE, None, 1)


def test_without_an_expectation_there_are_exact_intervals_alone() -> None:
    """Of three versions each is wider, so that all together are right as often."""
    two, three = judged(rules(""), "ab" * 50), judged(rules(""), "aabc" * 25)
    assert two.status is three.status is Status.HOLDS
    assert three.rows[0].low < two.rows[0].low < 0.5
    assert two.rows[0].log_e is None
    assert judged(rules(""), [FAILED]).status is Status.ERRORS
    assert judged(rules(""), []).rows == []


def test_a_tally_shows_how_often_samples_fail() -> None:
    """It continues for some failures beyond the allowed ones, unless there is no answer at all."""
    judge = Sequential(rules(""))
    assert judge.take(outcome(FAILED))
    judge = Sequential(rules(""))
    judge.take(outcome("a"))
    assert [judge.take(outcome(FAILED)) for _ in range(21)] == [False] * 20 + [True]


def test_names_without_a_place_are_counted_as_others() -> None:
    """However many there are, and an expected one always has a place."""
    names = [f"name {number}" for number in range(1000)]
    made = judged(rules(""), [*names, "name 0"])
    assert len(made.tally.versions) == MAX_NAMES
    assert (made.tally.answered, made.tally.beyond) == (1001, 1000 - MAX_NAMES)
    assert (made.rows[-1].name, made.rows[-1].seen) == (OTHER, 1000 - MAX_NAMES)
    judge = Sequential(rules())
    later = [outcome(name) for name in names]
    assert judge.conclude(1.0, later).later.total() == 1000
    assert OTHER in judge.conclude(1.0, later).later
    for name in ["one", *names[: MAX_NAMES + 5]]:
        judge.take(outcome(name))
    rows = {row.name: row for row in judge.conclude(1.0).rows}
    assert (rows["one"].seen, rows[OTHER].verdict) == (1, "unexpected")


def test_a_tally_is_what_has_come_since_a_moment() -> None:
    """Counts of versions and failures alike."""
    whole = tally(one=3)
    before = whole.copy()
    for name in ("one", "two", FAILED):
        whole.add(outcome(name))
    since = whole.since(before)
    assert (since.versions["one"], since.versions["two"], since.failed) == (1, 1, 1)
    assert (since.answered, since.total, whole.total) == (2, 3, 6)


def ordered(names: Iterator[str], count: int) -> Order:
    order = Order()
    for name in islice(names, count):
        order.add(name)
    return order


def test_runs_of_equal_neighbours_show_how_a_balancer_chooses() -> None:
    """At random they are as chance makes them; in turn there are more, in runs there are fewer."""
    by_chance = ordered(drawn(random.Random(2026), {"one": 0.8, "two": 0.2}), 1000).said()
    in_turn = ordered(cycle(["one"] * 4 + ["two"]), 1000).said()
    in_runs = ordered(cycle(["one"] * 40 + ["two"] * 10), 1000).said()
    assert by_chance
    assert in_turn
    assert in_runs
    assert abs(by_chance.z) < 4 < in_turn.z
    assert in_runs.z < -4
    assert (in_turn.seen, in_turn.expected) == (400, 321)
    assert ordered(cycle(["one"]), 1000).said() is None
    assert mood(1, [1]) is None


def test_the_number_of_runs_has_the_mean_and_spread_that_chance_gives_it() -> None:
    """Three versions in every order: the moments of Mood, exactly."""
    counts, seen = (3, 2, 2), []

    def walk(left: tuple[int, ...], last: int, runs: int) -> None:
        if not any(left):
            seen.append(runs)
        for one, count in enumerate(left):
            if count:
                less = tuple(n - (one == other) for other, n in enumerate(left))
                walk(less, one, runs + (one != last))

    walk(counts, -1, 0)
    mean = sum(seen) / len(seen)
    spread = (sum((one - mean) ** 2 for one in seen) / len(seen)) ** 0.5
    said = mood(4, list(counts))
    assert said
    assert (said.expected, said.z) == pytest.approx((mean, (4 - mean) / spread))


def test_stretches_that_differ_are_seen() -> None:
    """As many stretches as give each version five expected samples, twenty at most."""
    chance = random.Random(2026)
    even = ordered(drawn(chance, {"one": 0.8, "two": 0.2}), 1000).homogeneity()
    assert even
    assert even.p > 1e-3
    assert even.parts in (2, 5, 20)
    names = chain(islice(cycle(["one"] * 9 + ["two"]), 500), cycle(["one"] * 7 + ["two"] * 3))
    uneven = ordered(names, 1000).homogeneity()
    assert uneven
    assert uneven.p < 1e-6
    few = ordered(cycle(["one"] * 9 + ["two"]), 120).homogeneity()
    assert few
    assert few.parts == 2
    assert ordered(cycle(["one"] * 9 + ["two"]), 90).homogeneity() is None
    assert homogeneity([Counter(a=1), Counter()]) is None
    assert homogeneity([]) is None


def test_the_order_of_a_long_run_is_kept_in_little_room() -> None:
    """In blocks that grow; what comes since a moment is known nearly as well."""
    order = ordered(chain(islice(cycle(["one"]), 4000), cycle(["one", "two"])), 10_000)
    assert len(order._blocks) < 2048
    half = ordered(cycle(["one"]), 4004)
    mark = half.mark()
    for name in islice(cycle(["one", "two"]), 5996):
        half.add(name)
    assert half.said(mark) == ordered(cycle(["one", "two"]), 5996).said()
    whole, since = order.homogeneity(), half.homogeneity(mark)
    assert whole
    assert since
    assert whole.p < 1e-6 < since.p


@pytest.mark.parametrize(("x", "freedom"), [(0.0, 3), (1.0, 2), (30.0, 2), (5.0, 40), (80.0, 40)])
def test_tails_of_chi_square_with_even_freedom_are_a_sum(x: float, freedom: int) -> None:
    """Which is known in closed form."""
    term = total = 2.718281828459045 ** (-x / 2)
    for step in range(1, freedom // 2):
        term *= x / 2 / step
        total += term
    known = 1.0 if x == 0 else total
    assert chi_square_tail(x, freedom) == pytest.approx(known, rel=1e-10)
