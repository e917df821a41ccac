"""The judge of a split that is watched."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import islice, repeat
from typing import Any

import pytest
from support.splits import FAILED, drawn, outcome, rules

from echod.errors import UsageError
from echod.probe.expectation import Expectation, parse
from echod.probe.verdict import Rules
from echod.watch.sentinel import Sentinel, Verdict

YEAR = 365 * 86_400
DAY = 86_400


class Watched(Sentinel):
    """A sentinel that is given a sample a second, and keeps its events."""

    def __init__(self, expect: str = "one=80,two=20", *, settle: float = 30.0) -> None:
        self.events: list[dict[str, Any]] = []
        self.now = 0.0

        def ruled(expectation: Expectation) -> Rules:
            if "odd" in expectation.shares:
                raise UsageError("--detect 5: must be less here")
            changed = rules()
            return Rules(
                expectation=expectation,
                alpha=changed.alpha,
                detect=changed.detect,
                tolerance=None,
                max_errors=0,
            )

        def report(event: str, **facts: Any) -> None:
            self.events.append({"event": event, **facts})

        super().__init__(ruled, parse([expect]), report, threshold=YEAR, enough=DAY, settle=settle)

    def see(self, names: Iterable[str]) -> None:
        for name in names:
            self.take(outcome(name, self.now))
            self.now += 1

    def see_until(self, verdict: Verdict, names: Iterable[str], most: int = 20_000) -> float:
        """Sees them until it says so; gives the seconds that took."""
        began = self.now
        for name in islice(names, most):
            self.see([name])
            if self.verdict is verdict:
                return self.now - began
        raise AssertionError(f"not within {most} samples")

    def now_says(self) -> Verdict:
        """The verdict, which changes between two looks."""
        return self.verdict

    def named(self) -> list[str]:
        return [str(one["event"]) for one in self.events]


def split(one: float, seed: int = 0) -> Iterable[str]:
    return drawn(random.Random(seed), {"one": one, "two": 1 - one})


def test_a_split_as_expected_raises_no_alarm_in_hours() -> None:
    """20,000 samples, and the level stays under an alarm's."""
    watched = Watched()
    watched.see(islice(split(0.8), 20_000))
    assert watched.events == []
    assert 0 < watched.level < 1
    assert watched.changes == 0


def test_a_split_that_leaves_raises_an_alarm_and_one_that_returns_ends_it() -> None:
    """Each once, with what was seen since the last change; the level is 1 meanwhile."""
    watched = Watched()
    watched.see(islice(split(0.8), 1000))
    took = watched.see_until(Verdict.ALARM, split(0.5, 1))
    assert took < 250
    assert watched.level == 1.0
    watched.see(islice(split(0.5, 2), 500))
    assert watched.level == 1.0
    (alarm,) = watched.events
    assert (alarm["event"], alarm["reason"]) == ("alarm", "shares differ")
    assert alarm["expected"] == "one=80,two=20"
    assert watched.see_until(Verdict.EXPECTED, split(0.8, 3)) > 100
    assert watched.named() == ["alarm", "all-clear"]
    assert watched.level < 0.2
    assert watched.changes == 2


def test_a_rise_of_the_level_is_that_of_the_sums() -> None:
    """Nothing at first, and all when the alarm is raised."""
    watched = Watched()
    assert watched.level == 0
    levels = []
    for _ in range(75):
        watched.see(["one"])
        levels.append(watched.level)
    assert levels == sorted(levels)
    assert 0.95 < levels[-1] < 1
    watched.see(["one"])
    assert watched.now_says() is Verdict.ALARM
    assert watched.named() == ["alarm"]
    assert watched.events[0]["seen"] == "one=76,two=0"
    assert watched.events[0]["seconds"] == 75


def test_shares_and_intervals_are_those_since_the_last_change() -> None:
    """Of verdict or expectation: an hour of the old split hides nothing of the new one."""
    watched = Watched()
    watched.see(islice(split(0.8), 3600))
    watched.see_until(Verdict.ALARM, repeat("two"))
    assert watched.rows()[1] == 0
    watched.see(["two"] * 100)
    rows, judged = watched.rows()
    shares = {row.name: (row.share, row.low, row.high) for row in rows}
    assert judged == 100
    assert shares["one"][0] == 0
    assert shares["one"][2] < 0.2
    watched.change(parse(["one=1,two=1"]), watched.now)
    assert watched.rows()[1] == 0


@pytest.mark.parametrize(
    ("expect", "name", "reason"),
    [
        ("one=80,two=20", "three", "unexpected"),
        ("one=80,two=20,three=0", "three", "forbidden"),
        ("one=1", "two", "unexpected"),
        ("one=100,two=0", "two", "forbidden"),
        ("one=80,two=20,error=0", FAILED, "forbidden"),
    ],
)
def test_one_that_must_not_be_there_raises_an_alarm_at_once(
    expect: str, name: str, reason: str
) -> None:
    """And there is no all-clear for as long as it is seen now and then."""
    watched = Watched(expect)
    watched.see(["one", name])
    (alarm,) = watched.events
    assert (alarm["event"], alarm["reason"]) == ("alarm", reason)
    assert alarm["version"] == ("error" if name == FAILED else name)
    good = split(0.8) if "80" in expect else repeat("one")
    for _ in range(20):
        watched.see([*islice(good, 100), name])
    assert watched.named() == ["alarm"]
    watched.see_until(Verdict.EXPECTED, good)
    assert watched.named() == ["alarm", "all-clear"]


def test_one_version_alone_is_back_when_a_day_s_worth_says_so() -> None:
    """Where one is expected no other ratio speaks: 164 samples at one a second."""
    watched = Watched("one=100,two=0")
    watched.see(["two"])
    assert watched.see_until(Verdict.EXPECTED, repeat("one")) == 164
    watched.see(["one"] * 1000)
    assert watched.level == 0


def test_failures_without_a_share_are_no_samples_of_the_split() -> None:
    """However many: they are counted, and move no sum and no interval."""
    watched = Watched()
    watched.see([FAILED] * 5000)
    assert (watched.level, watched.events, watched.rows()[1]) == (0, [], 0)
    assert watched.counts.failures["refused"] == 5000
    watched.see(["one"] * 10)
    low = watched.rows()[0][0].low
    watched.see([FAILED] * 100)
    assert watched.rows()[0][0].low == low


def test_failures_with_a_share_are_samples_of_it() -> None:
    """More of them than their share raise an alarm, fewer too."""
    watched = Watched("one=76,two=19,error=5")
    watched.see_until(Verdict.ALARM, [FAILED] * 30)
    assert watched.events[0]["seen"].endswith(",error=" + str(int(watched.now)))


def test_a_changed_expectation_is_not_judged_until_it_has_settled() -> None:
    """Counted from the change: what began before the end of that time says nothing."""
    watched = Watched()
    watched.see(islice(split(0.8), 200))
    watched.change(parse(["one=50,two=50"]), watched.now)
    assert watched.now_says() is Verdict.SETTLING
    watched.see(["three"] * 30)
    assert watched.named() == ["expectation changed"]
    assert watched.level == 0
    watched.see(["one"])
    assert watched.now_says() is Verdict.EXPECTED
    assert watched.named() == ["expectation changed", "settled"]
    watched.see(islice(split(0.5), 5000))
    assert watched.named() == ["expectation changed", "settled"]
    assert watched.changes == 2
    assert watched.events[0]["before"] == "one=80,two=20"
    assert watched.events[0]["expected"] == "one=50,two=50"


def test_the_first_expectation_is_judged_from_the_start() -> None:
    """The time to settle counts from a change alone."""
    watched = Watched()
    watched.see(["three"])
    assert watched.named() == ["alarm"]


def test_without_a_time_to_settle_what_began_after_the_change_is_judged() -> None:
    """And what began before it is not, though it ends later."""
    watched = Watched(settle=0)
    watched.now = 50
    watched.change(parse(["three=1"]), 100)
    assert watched.now_says() is Verdict.EXPECTED
    watched.see(["one"] * 50)
    assert watched.named() == ["expectation changed"]
    watched.see(["one"])
    assert watched.named() == ["expectation changed", "alarm"]


def test_a_changed_expectation_ends_an_alarm() -> None:
    """The new one is another question; it may raise an alarm of its own."""
    watched = Watched()
    watched.see(["three"])
    watched.change(parse(["three=1"]), watched.now)
    assert watched.events[-1]["verdict_before"] == "alarm"
    watched.see(["three"] * 100)
    assert watched.now_says() is Verdict.EXPECTED
    watched.change(parse(["one=1"]), watched.now)
    watched.see(["three"] * 31)
    assert watched.now_says() is Verdict.ALARM


def test_an_expectation_that_the_rules_refuse_changes_nothing() -> None:
    """It raises what the rules say."""
    watched = Watched()
    with pytest.raises(UsageError, match="must be less"):
        watched.change(parse(["odd=1"]), 5)
    assert (watched.verdict, watched.expectation) == (Verdict.EXPECTED, parse(["one=80,two=20"]))


def test_names_are_bounded_and_shown_escaped() -> None:
    """A hostile server has another name for each connection."""
    watched = Watched()
    watched.see(["\x1b\udc80"])
    watched.see(f"name {number}" for number in range(500))
    counted = watched.counts
    assert len(counted.connections) == len(counted.connect) == len(counted.reply) == 65
    assert sum(counted.connections.values()) == 501
    assert counted.connections["other"] == 501 - 62
    assert counted.connections["\\x1b\\x80"] == 1
    assert watched.events[0]["version"] == "\\x1b\\x80"
    assert len(watched.rows()[0]) < 70
