"""The verdict in words: the verdict, its reasons, and how often it is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from echod.probe.evidence import PASS
from echod.probe.expectation import FAILURES
from echod.probe.independence import CHANGED, STICKS, Independence
from echod.probe.planning import Plan
from echod.probe.result import (
    HEADLINES,
    Result,
    decimals,
    expected_text,
    interval,
    percent,
    printable,
)
from echod.probe.verdict import WRONG, Row, Rules, Status


def verdict_lines(result: Result) -> list[str]:
    """The verdict with its reasons, and how often it is wrong."""
    marks = " (interrupted)" if result.interrupted else ""
    if result.refused:
        return [f"stopped: {result.refused}"]
    reasons = list(_reasons(result))
    if not result.rules.expectation and not reasons:
        return [f"no expectation to judge by{marks}"]
    lines = [f"{HEADLINES[result.status]}{marks}: {'; '.join(reasons)}"]
    if result.rules.expectation:
        lines += guarantee(result.rules, result.judgement.status)
    return lines


def guarantee(rules: Rules, status: Status) -> list[str]:
    """How often a verdict is wrong."""
    alpha = one_in(rules.alpha)
    if status is Status.DIFFERS:
        return [
            f"a split that is as expected gets this verdict in {alpha} at most, however long the"
            " run"
        ]
    if status is not Status.HOLDS:
        return []
    if rules.tolerance is not None:
        return [f"a share off by more than {_points(rules.tolerance)} passes in {alpha} at most"]
    return [
        f"a share off by {_points(rules.detect)}, or a version that never answers, passes in"
        f" {one_in(PASS)} at most"
    ]


def plan_lines(plan: Plan, rules: Rules) -> list[str]:
    """The number of connections that a judgement takes, and its guarantees."""
    return [
        f"a pass takes {plan.typical:,} connections on average, {plan.p95:,} in 95 % of runs,"
        f" {plan.least:,} at least;",
        f"after {plan.cap:,} a run ends without a verdict",
        "does not hold: " + guarantee(rules, Status.DIFFERS)[0],
        "holds: " + guarantee(rules, Status.HOLDS)[0],
    ]


def one_in(chance: float) -> str:
    """A chance in words: ``1 run of 1,000``."""
    return f"1 run of {1 / chance:,.4g}" if chance > 1e-3 else f"1 run of {1 / chance:,.0f}"


def _points(part: float) -> str:
    return f"{100 * part:.3g} point{'s' * (100 * part != 1)}"


def _reasons(result: Result) -> Iterable[str]:
    judgement, rules = result.judgement, result.rules
    tally = judgement.tally
    if judgement.status is Status.ERRORS:
        yield (
            f"{tally.failed:,} of {connections(tally.total)} failed,"
            f" {rules.max_errors:,} may (--max-errors)"
        )
    if not result.servers_match:
        yield "the servers' counts differ"
    for row in judgement.rows:
        if row.verdict in WRONG:
            yield wrong(row)
    wrong_rows = {row.name for row in judgement.rows if row.verdict in WRONG}
    for name, number in judgement.later.items():
        if name in wrong_rows:
            continue
        kind = "forbidden" if name in rules.named else "unexpected"
        seen = f"was seen {_times(number)} after the judged connections"
        yield f"{printable(name)} is {kind}, and {seen}"
    if rules.expectation and result.status in (Status.HOLDS, Status.INCONCLUSIVE):
        yield _nothing_wrong(result, expected_text(rules.expectation))


def connections(number: int) -> str:
    """The number with its noun: ``2 connections``."""
    return f"{number:,} connection{'s' * (number != 1)}"


def _contradict(number: int) -> str:
    return "does not contradict" if number == 1 else "do not contradict"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def wrong(row: Row) -> str:
    """How a row contradicts the expectation."""
    if row.verdict in ("forbidden", "unexpected"):
        return f"{printable(row.name)} is {row.verdict}, and was seen {_times(row.seen)}"
    places = decimals(row)
    seen = f"{percent(row.share, places)} ({interval(row.low, row.high, places)})"
    return f"{printable(row.name)} has {seen}, {percent(row.expected or 0, places)} was expected"


def _nothing_wrong(result: Result, expected: str) -> str:
    judgement, tolerance = result.judgement, result.rules.tolerance
    tally = judgement.tally
    if result.status is Status.HOLDS:
        if result.rules.certain and tally.failed:
            answered = f"{connections(tally.answered)}, of those that answered,"
            return f"{answered} {_contradict(tally.answered)} {expected}"
        if tolerance is None:
            return f"{connections(judgement.judged)} {_contradict(judgement.judged)} {expected}"
        return f"every share is within {100 * tolerance:.3g} points of {expected}"
    if judgement.changed:
        return (
            f"{connections(judgement.judged)} add up to {expected}, but the split changed during"
            " the run"
        )
    if tolerance is None:
        said = f"{connections(judgement.judged)} {_contradict(judgement.judged)} {expected}"
    else:
        within = f"within {100 * tolerance:.3g} points of {expected}"
        said = f"not every share is shown to be {within}"
    return said + _why_not(result)


def _why_not(result: Result) -> str:
    """Why there is no verdict, if the reason is known."""
    judgement, rules = result.judgement, result.rules
    tally = judgement.tally
    reasons = []
    if tally.failed and not rules.failures_count and not rules.certain:
        reasons.append(
            f"the {tally.failed:,} that failed may belong to any version"
            " (error=SHARE gives them a share)"
        )
    silent = _never_seen(result) if rules.tolerance is not None else ""
    if silent:
        when = "did not answer at the end" if result.waited else "has never answered"
        reasons.append(f"{silent} {when}, and the split cannot pass without it")
    elif not result.interrupted and not result.waited:
        reasons.append("a verdict takes more connections")
    return "".join(f"; {reason}" for reason in reasons)


def _never_seen(result: Result) -> str:
    """The first version with an expected share that has not answered in the judged part, if any."""
    expectation, seen = result.rules.expectation, result.judgement.tally.versions
    shares = expectation.shares if expectation else {}
    silent = (printable(name) for name, share in shares.items() if share and not seen[name])
    return next(silent, "")


def remarks(result: Result) -> list[str]:
    """Remarks on the independence of the samples."""
    said = result.judgement.independence
    lines = []
    if result.addresses > 1 and result.taken:
        lines.append(f"the name has {result.addresses:,} addresses: {result.taken} was taken")
    lines += _by_address(result)
    lines += _by_order(said, told=result.judgement.changed)
    if _is_alone(result):
        reasons = _IN_RUNS if result.sources > 1 else f"{_AFFINITY}, or {_IN_RUNS}"
        lines.append(f"only one version answered: possibly {reasons}")
    return lines


def _by_order(said: Independence, *, told: bool) -> list[str]:
    """Whether shares changed (unless ``told`` elsewhere), and how versions follow each other."""
    runs, lines = said.runs, []
    if runs and abs(runs.z) < STICKS:
        runs = None
    if said.homogeneity and said.homogeneity.p < CHANGED and not told:
        why = "other weights, or what follows" if runs else "other weights"
        lines.append(f"the shares changed during the run: {why}")
    if runs:
        kind = "equal versions follow each other" if runs.z < 0 else "versions take turns"
        chance = f"more often than chance ({runs.seen:,} runs, {runs.expected:,.0f} expected)"
        lines.append(f"{kind} {chance}: {_STICKY if runs.z < 0 else _IN_TURN}")
    return lines


def _by_address(result: Result) -> list[str]:
    """Which of several addresses fail, and whether their splits differ."""
    said, counts = result.judgement.independence, result.by_address
    failing = [f"{address} {one[FAILURES]:,}" for address, one in counts.items() if one[FAILURES]]
    lines = []
    if failing:
        more = f" and {len(failing) - _MOST_LISTED} more" if len(failing) > _MOST_LISTED else ""
        lines.append(f"failed by address: {', '.join(failing[:_MOST_LISTED])}{more}")
    if said.addresses and said.addresses.p < CHANGED:
        lines.append(
            f"the {len(counts):,} addresses of the name have different shares"
            " (by_address in --json)"
        )
    return lines


_MOST_LISTED = 10
_IN_RUNS = "a balancer that works in runs; then a verdict takes whole cycles of it"
_STICKY = f"affinity, or {_IN_RUNS}"
_AFFINITY = "affinity (use several sources: --source)"
_IN_TURN = "a balancer that takes turns is closer to its weights than chance"


def _is_alone(result: Result) -> bool:
    """Whether all answers came from one version where several were expected."""
    expectation, tally = result.rules.expectation, result.judgement.tally
    if expectation is None:
        return False
    several = sum(share > 0 for share in expectation.shares.values()) > 1
    return several and tally.answered > 1 and tally.answered in tally.versions.values()
