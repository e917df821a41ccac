"""One run of samples, from its first connection to its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from echod.probe.judge import Judge
from echod.probe.result import Result, percent, printable
from echod.probe.sampler import BACK_OFF_SECONDS, Sampler
from echod.probe.tally import Tally
from echod.probe.target import Target
from echod.probe.verdict import Rules

TICK_SECONDS = 0.1
"""Time between two checks of a run's progress and of signals."""


class Signals(Protocol):
    """The interface of the signals that stop a run."""

    def wait(self, timeout: float | None = None) -> object | None:
        """The next signal, or None after ``timeout`` seconds without one."""


@dataclass(frozen=True)
class Output:
    """Where a run writes: lines of output, warnings, and a progress line that is overwritten."""

    say: Callable[[str], None]
    progress: Callable[[str], None]
    warn: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast samples are taken, and the limits that end a run without a verdict."""

    cap: float = math.inf
    duration: float | None = None
    concurrency: int = 10
    rate: float | None = None
    waits: bool = False
    """Whether the run waits for the split, pausing after failures."""
    counted: bool = False
    """Whether the run waits for samples in progress at the verdict, because servers count them."""


def sample(
    target: Target,
    rules: Rules,
    judge: Judge,
    pace: Pace,
    output: Output,
    interrupted: Callable[[], bool],
) -> Result:
    """One run with its verdict. ``interrupted`` is called ten times a second."""
    sampler = Sampler(
        target,
        judge.take,
        cap=pace.cap,
        duration=pace.duration,
        concurrency=pace.concurrency,
        rate=pace.rate,
        back_off=BACK_OFF_SECONDS if pace.waits else 0.0,
    )
    try:
        ended = _attend(sampler, judge.tally, pace, output, interrupted)
    finally:
        seconds, abandoned = sampler.seconds, sampler.stop()
    return Result(
        target=str(target),
        rules=rules,
        judgement=judge.conclude(seconds, sampler.later()),
        seconds=seconds,
        answered=sampler.answered,
        failed=sampler.failed,
        cap=None if math.isinf(pace.cap) else int(pace.cap),
        interrupted=ended,
        addresses=target.found,
        taken=target.taken_address,
        sources=max(1, len(target.sources)),
        abandoned=abandoned,
        refused=str(sampler.refused or ""),
    )


def _attend(
    sampler: Sampler, tally: Tally, pace: Pace, output: Output, interrupted: Callable[[], bool]
) -> bool:
    """Wait until the judge is sure, showing progress; return whether the run was interrupted."""
    while not sampler.wait(TICK_SECONDS, for_all=pace.counted):
        output.progress(_progress(tally, pace.cap, sampler))
        if interrupted():
            return True
    return False


def _progress(tally: Tally, cap: float, sampler: Sampler) -> str:
    of = "" if math.isinf(cap) else f" of {cap:,.0f} at most"
    shares = [
        f"{printable(name)} {percent(count / tally.answered)}"
        for name, count in sorted(list(tally.versions.items())[:4])
        if tally.answered
    ]
    failed = [f"{tally.failed:,} failed"] if tally.failed else []
    waiting = [f"{sampler.under_way:,} under way"] if not tally.total else []
    return ", ".join(
        [f"{tally.total:,}{of} in {sampler.seconds:.0f} s", *shares, *failed, *waiting]
    )
