"""The command ``echod probe``: one verdict, a plan, or held connections."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from time import monotonic

from echod.errors import SystemRefused, UsageError, shown
from echod.probe import formats, planning, report, servers
from echod.probe.arguments import Settings
from echod.probe.conversation import Conversation
from echod.probe.expectation import Expectation, parse
from echod.probe.files import check_writable, contents
from echod.probe.hold import Held
from echod.probe.judge import Judge, Sequential
from echod.probe.result import Result, percent, printable
from echod.probe.runs import TICK_SECONDS, Output, Pace, Signals, sample
from echod.probe.target import LEAST_LOOK_UP_SECONDS, Target
from echod.probe.verdict import Rules, Status
from echod.probe.waiting import Waiting
from echod.probe.words import plan_lines

WITHOUT_EXPECTATION = 200
"""Number of connections if there is no expectation."""

PATIENCE_SECONDS = 2.0
"""Time for held connections to close."""


def run(settings: Settings, signals: Signals, output: Output) -> int:
    """Run the command; return the exit status. Raises UsageError and SystemRefused."""
    rules = rules_for(settings, expectation_of(settings))
    servers.check(settings.metrics)
    if settings.junit:
        check_writable("--junit", settings.junit)
    service = Conversation(settings.service, settings.host, rules.named)
    target = target_of(settings, service)
    if settings.hold:
        return _hold(settings, Held(target, settings.hold), signals, output)
    try:
        result = _sample(settings, rules, target, signals, output)
    finally:
        service.close()
    output.progress("")
    return _finish(settings, result, output)


def target_of(settings: Settings, service: Conversation) -> Target:
    """The target of the samples."""
    return Target(
        settings.host,
        settings.port,
        settings.timeout,
        family=settings.family,
        sources=settings.source,
        afresh=settings.resolve == "each",
        service=service,
        rest=LEAST_LOOK_UP_SECONDS if settings.watch or settings.wait else 0.0,
    )


def expectation_of(settings: Settings) -> Expectation | None:
    """The expectation, unless it comes from a file that a watch follows. Raises UsageError."""
    if settings.route is not None:
        return route_reader()(settings.route, contents("--route", settings.route))
    return parse(settings.expect) if settings.expect else None


def route_reader() -> Callable[[str, bytes], Expectation]:
    """The function that reads manifests. Raises SystemRefused if its library is missing."""
    try:
        from echod.probe.route import from_manifest  # noqa: PLC0415  # no other call needs it
    except ModuleNotFoundError as error:
        raise SystemRefused(
            f"--route: {error.name} is missing: install PyYAML, or the extra lab"
            " (pip install '.[lab]' in a checkout)"
        ) from error
    return from_manifest


def rules_for(settings: Settings, expectation: Expectation | None) -> Rules:
    """The rules of a judgement with this expectation. Raises UsageError."""
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
        for share in expectation.tested.values():
            if settings.tolerance is None and settings.detect > max(share, 1 - share) + 1e-9:
                most = percent(max(share, 1 - share))
                raise UsageError(f"--detect {100 * settings.detect:g}: must be {most} at most here")
    return rules


def plan(settings: Settings, output: Output) -> int:
    """Print how many connections a judgement takes; return the exit status. Raises UsageError."""
    rules = rules_for(settings, expectation_of(settings))
    asked = planning.plan(list(rules.tests.values()))
    if settings.json:
        output.say(json.dumps(asdict(asked)) + "\n")
    elif settings.quiet:
        output.say(f"{asked.cap}\n")
    else:
        output.say("".join(f"{line}\n" for line in plan_lines(asked, rules)))
    return 0


def _sample(
    settings: Settings, rules: Rules, target: Target, signals: Signals, output: Output
) -> Result:
    """One run, with the servers' own counts if requested."""
    pace = Pace(
        cap=_cap(settings, rules, output),
        duration=settings.wait or settings.duration,
        concurrency=settings.concurrency,
        rate=settings.rate,
        waits=settings.wait is not None,
        counted=bool(settings.metrics),
    )
    judge: Judge = Waiting(rules, settings.wait) if settings.wait else Sequential(rules)
    before = servers.read(settings.metrics) if settings.metrics else None
    result = sample(target, rules, judge, pace, output, lambda: bool(signals.wait(0.001)))
    result = replace(result, waited=settings.wait is not None)
    if before:
        try:
            counts = servers.read(settings.metrics).since(before)
        except SystemRefused as error:
            return replace(result, refused=result.refused or str(error))
        result = replace(result, servers=counts)
    return result


def _cap(settings: Settings, rules: Rules, output: Output) -> float:
    """The number of connections after which a run ends. Warns if a pass needs more."""
    tests = list(rules.tests.values())
    most = planning.limit(tests) if tests else WITHOUT_EXPECTATION
    if not settings.n:
        return math.inf if settings.wait or settings.duration else most
    if tests and settings.n < (least := planning.earliest(tests)):
        output.warn(
            f"echod: warning: -n {settings.n}: the split cannot pass, which takes at least"
            f" {least:,} connections\n"
        )
    return settings.n


def _finish(settings: Settings, result: Result, output: Output) -> int:
    try:
        if settings.json:
            output.say(formats.as_json(result))
        elif not settings.quiet:
            output.say(report.text(result))
    finally:
        if settings.junit:
            _write_junit(settings.junit, result)
    if result.refused and (settings.json or settings.quiet):
        raise SystemRefused(result.refused)
    return int(result.status)


def _write_junit(path: str, result: Result) -> None:
    try:
        with open(path, "wb") as file:
            file.write(formats.as_junit(result))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SystemRefused(f"--junit {shown(path)}: cannot be written: {reason}") from error


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
            f" {held.lost:,} ended or never answered, {held.moved:,} changed their version\n"
        )
    return int(Status.ERRORS if held.lost > settings.max_errors else Status.HOLDS)


def _over(settings: Settings, held: Held, seconds: float) -> bool:
    return held.cut == settings.hold or bool(settings.duration and seconds >= settings.duration)


def _show(settings: Settings, held: Held, said: str, seconds: float, output: Output) -> str:
    """Print the changes; return the summary that was printed last."""
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
    """Ascending numbers as ranges: ``1-4, 6``."""
    texts: list[str] = []
    first = last = numbers[0]
    for number in [*numbers[1:], -1]:
        if number != last + 1:
            texts.append(str(first) if first == last else f"{first}-{last}")
            first = number
        last = number
    return ", ".join(texts)
