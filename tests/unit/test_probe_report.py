from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from support.splits import FAILED, judged, outcome, rules

from echod.probe.formats import as_json, as_junit
from echod.probe.independence import Homogeneity, Independence, Runs
from echod.probe.judge import Sequential
from echod.probe.report import text
from echod.probe.result import Result, printable
from echod.probe.servers import Counts
from echod.probe.verdict import Judgement, Rules, Status


def result(
    expect: str,
    failures: int = 0,
    tolerance: float | None = None,
    max_errors: int = 0,
    waited: bool = False,
    **seen: int,
) -> Result:
    """What a run comes to that has seen so many of each, in turn as far as they go."""
    asked = rules(expect, tolerance=tolerance, max_errors=max_errors)
    places = [(place / count, name) for name, count in seen.items() for place in range(count)]
    places += [(place / failures, FAILED) for place in range(failures)]
    made = judged(asked, [name for _, name in sorted(places)])
    return result_of(made, asked, waited=waited)


def result_of(judgement: Judgement, asked: Rules, **changes: Any) -> Result:
    tally = judgement.tally
    given: dict[str, Any] = {
        "target": "x:1",
        "rules": asked,
        "judgement": judgement,
        "seconds": 1.0,
        "answered": tally.answered,
        "failed": tally.failed,
    }
    return Result(**(given | changes))


def last_lines(one: Result) -> str:
    return text(one).partition("verdict")[2]


def test_what_must_not_be_there_is_named() -> None:
    """With how often it was seen, also where that was after the judged ones."""
    said = last_lines(result("one=1,two=0", one=10, two=1))
    assert "two is forbidden, and was seen once" in said
    judge = Sequential(rules("one=1,two=0"))
    while not judge.take(outcome("one")):
        pass
    later = [outcome("three"), outcome("two"), outcome("two")]
    said = last_lines(result_of(judge.conclude(1.0, later), rules("one=1,two=0")))
    assert (
        "does not hold: three is unexpected, and was seen once after the judged connections" in said
    )
    assert "two is forbidden, and was seen 2 times after the judged connections" in said
    both = judged(rules("one=1,two=0"), ["two"])
    said = last_lines(result_of(replace(both, later=Counter(two=3)), rules("one=1,two=0")))
    assert "two is forbidden, and was seen once" in said
    assert "after the judged connections" not in said


def test_a_verdict_says_how_often_it_is_wrong() -> None:
    """Each in its own way; an inconclusive one promises nothing."""
    held = last_lines(result("one=80,two=20", one=800, two=200))
    assert (
        "do not contradict one=80,two=20\na share off by 5 points, or a version that never" in held
    )
    assert held.endswith("answers, passes in 1 run of 20 at most\n")
    differs = last_lines(result("one=80,two=20", one=60, two=60))
    assert differs.endswith(
        "a split that is as expected gets this verdict in 1 run of 1,000 at most, however long the"
        " run\n"
    )
    within = last_lines(result("one=80,two=20", tolerance=0.05, one=4000, two=1000))
    assert "holds: every share is within 5 points of one=80,two=20" in within
    assert within.endswith("a share off by more than 5 points passes in 1 run of 1,000 at most\n")
    assert last_lines(result("one=80,two=20", one=8, two=2)).count("\n") == 4


@pytest.mark.parametrize(
    ("expect", "seen", "words"),
    [
        (
            "one=99.9,two=0.1",
            8000,
            r"two has 0.000+ % \(0.000+ - 0.099+\d* %\), 0.100+ % was expected",
        ),
        ("one=99,two=1", 800, r"two has 0.000 % \(0.000 - 0.999 %\), 1.000 % was expected"),
        ("one=80,two=20", 40, r"two has 0.0 % \(0.0 - 19.6 %\), 20.0 % was expected"),
        ("two=99.9999,one=0.0001", 9, r"two has 0.00000 % \(0.00000 - [\d.]+ %\), 99.99990 % was"),
    ],
)
def test_a_share_and_its_interval_are_told_apart(expect: str, seen: int, words: str) -> None:
    """However rare a version is: rounded more, its expected share would lie within."""
    said = text(result(expect, one=seen))
    assert re.search(words, said), said
    low, high, expected = (
        float(number)
        for number in re.findall(r"two has [\d.]+ % \(([\d.]+) - ([\d.]+) %\), ([\d.]+) %", said)[0]
    )
    assert not low <= expected <= high


def test_an_inconclusive_run_says_why() -> None:
    """Too few, too many failures, or a split that has changed."""
    said = last_lines(result("one=1,two=4", tolerance=0.03, one=20, two=80))
    assert "inconclusive: not every share is shown to be within 3 points of one=20,two=80" in said
    assert "a verdict takes more connections" in said
    rare = last_lines(result("one=99,two=1", tolerance=0.05, one=2000))
    assert "two has never answered, and the split cannot pass without it" in rare
    assert "takes more connections" not in rare
    waited = replace(result("one=99,two=1", tolerance=0.05, one=2000), waited=True)
    assert "two did not answer at the end, and the split cannot pass" in last_lines(waited)
    alone = last_lines(result("one=80,two=20", one=1))
    assert "inconclusive: 1 connection does not contradict one=80,two=20" in alone
    failing = last_lines(result("one=80,two=20", 30, None, 100, one=240, two=60))
    assert "the 30 that failed may belong to any version (error=SHARE gives" in failing
    made = judged(rules(), ["one"] * 5)
    changed = last_lines(result_of(replace(made, changed=True), rules()))
    assert "add up to one=80,two=20, but the split changed during the run" in changed


def test_failures_of_the_only_version_are_no_other_versions() -> None:
    """The verdict is one on those that answered."""
    said = text(result("one=1", 3, None, 10, one=60))
    assert "holds: 59 connections, of those that answered, do not contradict one=100" in said


def test_failures_with_a_share_stand_in_the_expectation() -> None:
    """As the last of its names."""
    said = text(result("one=90,error=10", failures=150, one=1350))
    assert "connections do not contradict one=90,error=10" in said
    assert "failed: refused " in said


def test_failures_are_said_without_an_expectation() -> None:
    """There is nothing else to judge."""
    made = judged(rules(""), ["one"] * 7 + [FAILED] * 3)
    said = text(result_of(made, rules("")))
    assert said.endswith("too many errors: 3 of 10 connections failed, 0 may (--max-errors)\n")


@pytest.mark.parametrize(
    ("z", "words"),
    [
        (-5.0, "equal versions follow each other more often than chance (100 runs, 320 expected)"),
        (5.0, "versions take turns more often than chance (100 runs, 320 expected)"),
        (3.0, None),
    ],
)
def test_samples_that_depend_on_each_other_are_said(z: float, words: str | None) -> None:
    """In one plain line, only if there is something to say."""
    one = result("one=80,two=20", one=800, two=200)
    said = Independence(Runs(100, 320.0, z))
    again = text(replace(one, judgement=replace(one.judgement, independence=said)))
    assert ("more often than chance" in again) is bool(words)
    assert words is None or words in again
    quiet = replace(one, judgement=replace(one.judgement, independence=Independence()))
    assert again.count("\n") - text(quiet).count("\n") == bool(words)


def test_shares_that_changed_are_said_beside_a_verdict() -> None:
    """They explain few runs as well as a balancer does."""
    one = result("one=50,two=50", one=800, two=200)
    changed = Homogeneity(20, 500.0, 1e-90)
    for said, words in (
        (Independence(None, changed), "the shares changed during the run: other weights\n"),
        (Independence(Runs(9, 320.0, -9), changed), "other weights, or what follows\nequal vers"),
        (Independence(None, replace(changed, p=1e-3)), ""),
    ):
        again = text(replace(one, judgement=replace(one.judgement, independence=said)))
        assert ("the shares changed" in again) is bool(words)
        assert words in again
    told = replace(one.judgement, independence=Independence(None, changed), changed=True)
    assert "the shares changed" not in text(replace(one, judgement=told))


def test_one_version_alone_may_be_affinity_or_a_long_run() -> None:
    """If several versions were expected; with several sources affinity is not likely."""
    alone = result("one=80,two=20", one=40)
    said = "only one version answered: possibly affinity (use several sources: --source), or a bal"
    assert said in text(alone)
    assert "possibly a balancer that works in runs" in text(replace(alone, sources=2))
    assert "affinity" not in text(replace(alone, sources=2))
    assert "only one version" not in text(result("one=100,two=0", one=60))


def test_json_has_what_a_verdict_rests_on() -> None:
    """The evidence, where it fell, and what the order says."""
    found = json.loads(as_json(result("one=80,two=20", one=800, two=200)))
    assert (found["stopped_at"], found["judged"], found["connections"]) == (421, 421, 421)
    assert found["versions"][0]["log_e"] == pytest.approx(found["versions"][1]["log_e"])
    said = found["independence"]
    assert said["runs"]["z"] > 4
    assert said["homogeneity"]["p"] > 0.9
    assert said["by_address"] is None
    few = json.loads(as_json(result("one=80,two=20", one=4, two=1)))
    assert (few["stopped_at"], few["independence"]["homogeneity"]) == (None, None)
    endless = json.loads(as_json(result("one=100,two=0", one=5, two=1)))
    assert [row["log_e"] for row in endless["versions"]] == [None, None]


def test_junit_has_the_same_as_properties() -> None:
    """What there is of them."""
    suite = ElementTree.fromstring(as_junit(result("one=80,two=20", one=800, two=200)))[0]
    found = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert found["stopped_at"] == "421"
    assert {"log_e of one", "independence.runs.z", "independence.homogeneity.p"} <= set(found)
    few = ElementTree.fromstring(as_junit(result("one=80,two=20", one=4)))[0]
    assert "stopped_at" not in {one.get("name") for one in few.iter("property")}


def test_a_wait_says_what_of_it_was_judged() -> None:
    """The end of it, as a rule."""
    said = text(result("one=80,two=20", tolerance=0.05, waited=True, one=8, two=2))
    assert said.startswith("10 connections to x:1 in 1.0 s (10/s), the last 10 judged\n")
    assert said.endswith("not every share is shown to be within 5 points of one=80,two=20\n")


def test_a_run_that_this_host_ended_says_why() -> None:
    """In place of a verdict."""
    stopped = replace(result("one=1", one=5), refused="no free file descriptor")
    assert stopped.status is Status.ERRORS
    assert text(stopped).endswith("stopped: no free file descriptor\n")
    assert json.loads(as_json(stopped))["stopped"] == "no free file descriptor"


@pytest.mark.parametrize(
    ("requests", "match"),
    [({"": 100}, True), ({"": 102}, True), ({"": 103}, False), ({"": 99}, False), ({}, False)],
)
def test_servers_may_have_answered_what_failed_here(requests: dict[str, int], match: bool) -> None:
    """But neither less than the answered samples, nor more than all samples."""
    counts = Counts(Counter(requests), 100)
    assert counts.match(100, 2) is match


def test_counters_that_fell_do_not_match() -> None:
    """A server that was restarted in between has lost its count."""
    before, after = Counts(Counter(v1=50, v2=10), 60), Counts(Counter(v1=5, v2=160), 165)
    assert not after.since(before).match(105, 0)


def test_a_check_that_was_open_before_makes_no_negative_number_of_connections() -> None:
    """It was one until it ended unused."""
    before, after = Counts(Counter(v1=50), 51), Counts(Counter(v1=50), 50)
    assert after.since(before) == Counts(Counter(v1=0), 0)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("one", "one"),
        ("", "(empty)"),
        ("a\x00\x1b[0m\n", r"a\x00\x1b[0m\n"),
        ("\udcff", r"\xff"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}", r"\u202e"),
        ("￾\U0001ffff", r"\ufffe\U0001ffff"),
        ("x" * 100, "x" * 64 + "..."),
    ],
)
def test_names_are_shown_so_that_they_harm_nobody(name: str, shown: str) -> None:
    """On one line, in any format, not too long."""
    assert printable(name) == shown
    again = result_of(judged(rules("one=1"), [name]), rules("one=1"))
    assert ElementTree.fromstring(as_junit(again)) is not None
    assert shown in {row["name"] for row in json.loads(as_json(again))["versions"]}
