"""One run of samples, from its first connection to its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from echod.probe.report import Result, percent, printable
from echod.probe.sampler import Sampler
from echod.probe.tally import Tally
from echod.probe.target import Target
from echod.probe.verdict import Rules, judge

TICK_SECONDS = 0.1
"""Between two looks at how far a run has come, and at signals."""


class Signals(Protocol):
    """What is asked of the signals that stop a run."""

    def wait(self, timeout: float | None = None) -> object | None:
        """The next one, or None when ``timeout`` seconds have passed without."""


@dataclass(frozen=True)
class Output:
    """Where a run speaks: lines that stay, and a line that is written over."""

    say: Callable[[str], None]
    progress: Callable[[str], None]


def sample(
    target: Target,
    rules: Rules,
    size: float,
    needed: int,
    output: Output,
    interrupted: Callable[[], bool],
    *,
    duration: float | None = None,
    concurrency: int = 10,
    rate: float | None = None,
) -> Result:
    """One run of ``size`` samples, judged. ``interrupted`` is asked ten times a second."""
    tally = Tally(rules.expectation.shares if rules.expectation else ())
    sampler = Sampler(
        target,
        tally,
        wanted=size,
        max_errors=rules.max_errors,
        failures_count=rules.failures_count,
        duration=duration,
        concurrency=concurrency,
        rate=rate,
    )
    try:
        ended = _attend(sampler, size, output, interrupted)
    finally:
        seconds, abandoned = sampler.seconds, sampler.stop()
    return Result(
        target=str(target),
        rules=rules,
        tally=tally,
        judgement=judge(tally, rules),
        seconds=seconds,
        needed=needed,
        interrupted=ended,
        abandoned=abandoned,
        refused=str(sampler.refused or ""),
    )


def _attend(sampler: Sampler, size: float, output: Output, interrupted: Callable[[], bool]) -> bool:
    """Waits until all is sampled and says how far it is; true if it was interrupted."""
    while not sampler.wait(TICK_SECONDS):
        output.progress(_progress(sampler.tally, size, sampler.seconds))
        if interrupted():
            return True
    return False


def _progress(tally: Tally, size: float, seconds: float) -> str:
    answered = tally.answered
    of = "" if math.isinf(size) else f" of {size:,.0f}"
    shares = [
        f"{printable(name)} {percent(count / answered)}"
        for name, count in sorted(list(tally.versions.items())[:4])
        if answered
    ]
    failed = [f"{tally.failed:,} failed"] if tally.failed else []
    return ", ".join([f"{answered:,}{of} in {seconds:.0f} s", *shares, *failed])
