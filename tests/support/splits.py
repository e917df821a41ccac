"""Splits as a probe may see them, without a network."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from echod.probe.evidence import ShareTest
from echod.probe.expectation import parse
from echod.probe.judge import Judge, Sequential
from echod.probe.tally import Outcome, Tally
from echod.probe.verdict import Judgement, Rules, Status
from echod.probe.waiting import Waiting

FAILED = "!"
"""A name that stands for a failure."""

RATE = 200
"""Samples a second."""


def rules(expect: str = "one=80,two=20", **changes: float | None) -> Rules:
    """The probe's defaults, and what differs from them."""
    given: dict[str, float | None] = {"alpha": 0.001, "detect": 0.05, "tolerance": None}
    given |= changes
    return Rules(
        expectation=parse([expect]) if expect else None,
        alpha=given["alpha"] or 0,
        detect=given["detect"] or 0,
        tolerance=given["tolerance"],
        max_errors=int(given.get("max_errors") or 0),
    )


def asked_tests(asked: Rules) -> list[ShareTest]:
    return list(asked.tests.values())


def outcome(name: str, began: float = 0.0) -> Outcome:
    if name == FAILED:
        return Outcome(None, "refused", "connection refused", began=began)
    return Outcome(name, "", "", 0.001, 0.001, began)


def tally(**seen: int) -> Tally:
    made = Tally()
    for name, count in seen.items():
        for _ in range(count):
            made.add(outcome(name))
    return made


def drawn(chance: random.Random, shares: Mapping[str, float]) -> Iterator[str]:
    """An endless sequence of names, each drawn by these shares."""
    names, weights = list(shares), list(shares.values())
    while True:
        yield from chance.choices(names, weights, k=256)


def judged(asked: Rules, names: Iterable[str], cap: int = 100_000) -> Judgement:
    """What a sequence comes to."""
    judge = Sequential(asked)
    feed(judge, names, cap)
    return judge.conclude(1.0)


def feed(judge: Judge, names: Iterable[str], cap: int) -> None:
    for number, name in enumerate(names, 1):
        if judge.take(outcome(name)) or number == cap:
            break


def share_of(
    status: Status, asked: Rules, shares: Mapping[str, float], runs: int, cap: int = 100_000
) -> float:
    """How often runs come to a status; always the same runs."""
    chance = random.Random(2026)
    ended = [judged(asked, drawn(chance, shares), cap).status for _ in range(runs)]
    return ended.count(status) / runs


def waited(
    names: Iterable[str],
    *,
    expect: str = "one=80,two=20",
    seconds: float = 20.0,
    samples: int | None = None,
    rate: float = RATE,
    max_errors: int = 0,
) -> Judgement:
    """What a wait comes to, of whose time so many samples make use."""
    judge = Waiting(rules(expect, tolerance=0.05, max_errors=max_errors), seconds)
    most = round(seconds * rate) if samples is None else samples
    for number, name in enumerate(islice(names, most)):
        if judge.take(outcome(name, number / rate)):
            break
    return judge.conclude(most / rate)


def split(one: float, seed: int = 0) -> Iterable[str]:
    return drawn(random.Random(seed), {"one": one, "two": 1 - one})
