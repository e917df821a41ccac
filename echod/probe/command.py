"""``echod probe``: what each kind of call does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic
from typing import NamedTuple

from echod.errors import SystemRefused, UsageError, shown
from echod.probe import formats, report, servers
from echod.probe.arguments import Settings
from echod.probe.expectation import parse
from echod.probe.hold import Held
from echod.probe.planning import POWER
from echod.probe.report import Result, percent, printable
from echod.probe.runs import TICK_SECONDS, Output, Signals, sample
from echod.probe.target import Target
from echod.probe.verdict import Rules, Status

PAUSE_SECONDS = 1.0
"""Between two looks at a split that is waited for."""

PATIENCE_SECONDS = 2.0
"""For held connections to take leave."""


def run(settings: Settings, signals: Signals, output: Output) -> int:
    """Does what is asked and gives the exit status. Raises UsageError and SystemRefused."""
    rules = _rules(settings)
    if settings.plan:
        return _plan(settings, rules, output)
    servers.check(settings.metrics)
    target = Target(
        settings.host,
        settings.port,
        settings.timeout,
        settings.family,
        settings.source,
        settings.resolve == "each",
    )
    if settings.hold:
        return _hold(settings, Held(target, settings.hold), signals, output)
    probe = _Probe(settings, target, signals, output)
    result = probe.wait(rules, settings.wait) if settings.wait else probe.sample(rules)
    output.progress("")
    return _finish(settings, result, output)


def _rules(settings: Settings) -> Rules:
    expectation = parse(settings.expect) if settings.expect else None
    rules = Rules(
        expectation=expectation,
        alpha=settings.alpha,
        detect=settings.detect,
        tolerance=settings.tolerance,
        max_errors=settings.max_errors,
    )
    if rules.failures_count and settings.max_errors:
        raise UsageError("--max-errors: must be given without a share for errors in --expect")
    if expectation:
        for share in expectation.tested:
            if settings.tolerance is None and settings.detect > max(share, 1 - share) + 1e-9:
                most = percent(max(share, 1 - share))
                raise UsageError(f"--detect {100 * settings.detect:g}: must be {most} at most here")
    return rules


def _plan(settings: Settings, rules: Rules, output: Output) -> int:
    size = rules.plan()
    wrong = f"with {100 * rules.alpha:g} % at most (alpha {rules.alpha:g})"
    chance = f"with {100 * POWER:.0f} % probability"
    if settings.json:
        output.say(f'{{"connections": {size}}}\n')
    elif settings.quiet:
        output.say(f"{size}\n")
    elif rules.tolerance is None:
        output.say(
            f"{size:,} connections find a share that is off by {100 * rules.detect:g} points"
            f" {chance},\nand reject a split that is as expected {wrong}\n"
        )
    else:
        output.say(
            f"{size:,} connections show {chance} that a split that is as expected is within"
            f" {100 * rules.tolerance:g} points\nof that, and pass one that is not {wrong}\n"
        )
    return 0


class Look(NamedTuple):
    """One look at a split that is waited for."""

    result: Result
    needed: int  # connections that this look takes to judge
    left: float  # seconds, after it
    more: bool  # whether the next one can be had at all


def decide(look: Look, before: Result | None) -> Result | None:
    """The result to end with after a look, or None to look again.

    ``before`` is what the look before has shown.
    """
    result = look.result
    if result.status is Status.HOLDS or result.interrupted or result.refused:
        return result
    if look.left > 0:
        return None if look.more else result
    # A look that was cut short says less than the one before.
    short = result.status is Status.INCONCLUSIVE and result.connections < look.needed
    return before if before and short else result


class _Probe:
    """Runs of samples against one target."""

    def __init__(
        self, settings: Settings, target: Target, signals: Signals, output: Output
    ) -> None:
        self._settings = settings
        self._target = target
        self._signals = signals
        self._output = output

    def sample(self, rules: Rules) -> Result:
        """One run, with the servers' own counts if they are asked for."""
        settings = self._settings
        needed = rules.plan()
        size = settings.n or (math.inf if settings.duration else needed)
        before = servers.read(settings.metrics) if settings.metrics else None
        result = self._run(rules, size, settings.duration, needed)
        if before:
            try:
                counts = servers.read(settings.metrics).since(before)
            except SystemRefused as error:
                return replace(result, refused=result.refused or str(error))
            result = replace(result, servers=counts)
        return result

    def wait(self, rules: Rules, seconds: float) -> Result:
        """Looks at fresh samples until a look shows that the split holds, or time is over."""
        looks = self._looks(rules, monotonic() + seconds)
        before = None
        while not (last := decide(look := next(looks), before)):
            before = look.result
            self._say(look)
            if self._signals.wait(min(PAUSE_SECONDS, look.left)):
                return replace(before, interrupted=True)
        return last

    def _looks(self, rules: Rules, end: float) -> Iterator[Look]:
        """One look after another, each by stricter rules. Raises UsageError if the first one would
        take too many connections.
        """
        number = 0
        while True:
            number += 1
            strict = rules.look(number)
            needed = strict.plan()
            left = max(0.001, end - monotonic())
            result = self._run(strict, self._settings.n or needed, left, needed)
            more = rules.look(number + 1).is_plannable()
            yield Look(replace(result, looks=number), needed, end - monotonic(), more)

    def _say(self, look: Look) -> None:
        if not (self._settings.quiet or self._settings.json):
            self._output.progress("")
            reason = report.verdict_lines(look.result)[0]
            self._output.say(f"look {look.result.looks}: {reason}\n")

    def _run(self, rules: Rules, size: float, duration: float | None, needed: int) -> Result:
        return sample(
            self._target,
            rules,
            size,
            needed,
            self._output,
            lambda: bool(self._signals.wait(0.001)),
            duration=duration,
            concurrency=self._settings.concurrency,
            rate=self._settings.rate,
        )


def _finish(settings: Settings, result: Result, output: Output) -> int:
    if settings.json:
        output.say(formats.as_json(result))
    elif not settings.quiet:
        output.say(report.text(result))
    if settings.junit:
        try:
            with open(settings.junit, "wb") as file:
                file.write(formats.as_junit(result))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            path = shown(settings.junit)
            raise SystemRefused(f"--junit {path}: cannot be written: {reason}") from error
    if result.refused and (settings.json or settings.quiet):
        raise SystemRefused(result.refused)
    return int(result.status)


def _hold(settings: Settings, held: Held, signals: Signals, output: Output) -> int:
    start = monotonic()
    said = ""
    interrupted = False
    while not (interrupted or held.refused or _over(settings, held, monotonic() - start)):
        interrupted = bool(signals.wait(TICK_SECONDS))
        said = _show(settings, held, said, monotonic() - start, output)
    held.stop(min(settings.timeout, PATIENCE_SECONDS))
    if held.refused:
        raise held.refused
    _show(settings, held, said, monotonic() - start, output)
    if not settings.quiet:
        for name, numbers in held.versions.items():
            output.say(f"{printable(name)}: connections {_ranges(numbers)}\n")
        output.say(
            f"{len(held.stays):,} of {settings.hold:,} connections were open at the end,"
            f" {held.cut:,} were cut or never answered, {held.moved:,} changed their version\n"
        )
    return int(Status.ERRORS if held.cut > settings.max_errors else Status.HOLDS)


def _over(settings: Settings, held: Held, seconds: float) -> bool:
    return held.cut == settings.hold or bool(settings.duration and seconds >= settings.duration)


def _show(settings: Settings, held: Held, said: str, seconds: float, output: Output) -> str:
    """Says what has changed; gives what was said last of the whole."""
    while not held.changes.empty():
        change = held.changes.get()
        held.take(change)
        if change.version is None and not settings.quiet:
            who = f" ({printable(change.before)})" if change.before is not None else ""
            output.say(
                f"{seconds:6.1f} s  connection {change.number}{who} ended after"
                f" {change.seconds:.1f} s: {printable(change.detail)}\n"
            )
    counts = [f"{printable(name)} {len(numbers):,}" for name, numbers in held.versions.items()]
    whole = ", ".join(counts) or "none"
    if whole != said and not settings.quiet:
        output.say(f"{seconds:6.1f} s  {whole}\n")
    return whole


def _ranges(numbers: list[int]) -> str:
    """``1-4, 6``: numbers in rising order."""
    texts: list[str] = []
    first = last = numbers[0]
    for number in [*numbers[1:], -1]:
        if number != last + 1:
            texts.append(str(first) if first == last else f"{first}-{last}")
            first = number
        last = number
    return ", ".join(texts)
