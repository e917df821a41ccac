"""What a life has to be in which a stop comes at any call: a drain with all its promises."""

from __future__ import annotations

from inject.clients import Talk
from inject.life import Record
from inject.verdict import Verdict

RESETS = ("ConnectionResetError", "BrokenPipeError")
UNANSWERED = ("ConnectionRefusedError", *RESETS)
HELD = ("silent", "in a full house", "waiting at the stop")
"""Clients that send nothing more: no end of theirs is a reset."""


def judge_stop(record: Record) -> Verdict:
    """The verdict on a life that a signal has stopped."""
    if record.left or (record.hang and not record.cut_short):
        return Verdict("hang", [f"hangs: {record.hang or record.cut_short}", record.errors[-300:]])
    outcome = "drained" if record.talks else "before ready"
    return Verdict(outcome, [*_ending(record), *_clients(record)])


def _ending(record: Record) -> list[str]:
    problems = []
    if record.status != 0:
        problems.append(f"exit status {record.status}")
    if record.errors:
        problems.append(f"error output: {record.errors[-600:]}")
    names = [event["event"] for event in record.events]
    problems += [
        f"{names.count(name)} times {name}"
        for name in ("starting", "ready", "draining", "stopped")
        if names.count(name) != 1
    ]
    for event in record.events:
        if event["level"] == "error":
            problems.append(f"event: {event}")
        if event["event"] != "stopped":
            continue
        if event["cut"] or any(one["opened"] != one["closed"] for one in event["totals"]):
            problems.append(f"at the end {event}")
    return problems


def _clients(record: Record) -> list[str]:
    """Whole lines for everyone; and after the one whom the stop met, all or nothing."""
    problems = [f"not whole lines: {talk}" for talk in record.talks if not _is_whole(talk)]
    problems += [f"reset: {talk}" for talk in record.talks if talk.name in HELD and _reset(talk)]
    problems += [f"not all: {talk}" for talk in record.talks if talk.owed and talk.damaged]
    problems += [f"no end: {talk}" for talk in record.talks if talk.end.startswith("no reply")]
    partly = [talk for talk in record.talks if talk.damaged and (talk.heard or _reset(talk))]
    partly = [talk for talk in partly if talk.name not in HELD and not talk.owed]
    if len(partly) > 1:
        problems.append(f"several are cut: {', '.join(map(str, partly))}")
    return problems


def _is_whole(talk: Talk) -> bool:
    lines = not talk.heard or talk.heard.endswith(b"\n")
    return lines and talk.wanted.startswith(talk.heard)


def _reset(talk: Talk) -> bool:
    return talk.end in RESETS
