"""What a life with a fault in it has to be: a refused start, or one connection less at most."""

from __future__ import annotations

import json
from collections import Counter
from typing import NamedTuple

from inject.clients import Talk
from inject.faults import Fault
from inject.life import Record

TIMEOUTS = {"ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "ECONNREFUSED", "EACCES"}
RESETS = {"ECONNRESET", "EPIPE"}
RECOVERIES = ("accepting connections again", "no longer rejecting connections")
OF_THE_SCRIPT = "rejecting connections"
"""A warning that every life has, if its house gets full."""
OF_THE_INTERPRETER = (
    "Exception ignored when trying to write to the signal wakeup fd:",
    "ERROR:root:code for hash ",
)
"""What CPython says on its own: no memory for a wake-up, but the signal is not lost; no file for a
hash function that nothing uses.
"""
TOTALS = {"requests": "lines", "received_bytes": "said", "sent_bytes": "heard"}


class Verdict(NamedTuple):
    """How a run has ended, in a word, and what is wrong with it."""

    outcome: str
    problems: list[str]


def right_reasons(fault: Fault | None) -> set[str]:
    """Of the close of the connection that the fault met."""
    if not fault or not fault.kind.endswith(", TCP"):
        return {"error"}
    if fault.error in RESETS:
        return {"reset", "unused"}
    return {"timeout"} if fault.error in TIMEOUTS else {"error"}


def judge(record: Record, clean: Record, fault: Fault | None = None) -> Verdict:
    """``clean`` is a life without a fault."""
    if record.hang or record.left:
        return Verdict("hang", [f"hangs: {record.hang}", record.errors[-300:]])
    if record.refused:
        return Verdict("refused", _refused_problems(record))
    judged = _Judged(record, clean, fault)
    return Verdict(judged.outcome(), judged.problems())


def _refused_problems(record: Record) -> list[str]:
    problems = []
    if record.status != 1:
        problems.append(f"exit status {record.status}")
    if record.errors.count("\n") != 1 or not record.errors.startswith("echod: error: "):
        problems.append(f"not one line: {record.errors[-600:]}")
    if any(event["event"] == "ready" for event in record.events) or record.talks:
        problems.append("was ready")
    return problems


class _Judged:
    """A life that came to its end."""

    def __init__(self, record: Record, clean: Record, fault: Fault | None) -> None:
        self.record = record
        self.clean = clean
        self.fault = fault
        self.damaged = [talk for talk in record.talks if talk.damaged]
        self.reasons = {talk.port: Counter[str]() for talk in record.talks}
        for talk in record.talks:
            self.reasons[talk.port][talk.reason] += 1

    def outcome(self) -> str:
        if self.damaged:
            return "connection"
        if self.record.scrapes:
            return "scrape"
        return "event" if self._warnings() else "unharmed"

    def problems(self) -> list[str]:
        return [
            *self._ending(),
            *self._clients(),
            *self._at_rest(),
            *self._counters(),
            *self._log(),
            *self._totals(),
        ]

    def _ending(self) -> list[str]:
        problems = []
        if self.record.status != 0:
            problems.append(f"exit status {self.record.status}")
        if self.record.errors and not self.record.errors.startswith(OF_THE_INTERPRETER):
            problems.append(f"error output: {self.record.errors[-600:]}")
        if "READY=1" not in self.record.told and not self._warnings():
            problems.append("READY=1 was not told, and nothing says so")
        return problems

    def _clients(self) -> list[str]:
        if len(self.damaged) + len(self.record.scrapes) <= 1:
            return []
        damaged = [str(talk) for talk in self.damaged]
        return [f"several ended: {', '.join(damaged)}, scrapes {self.record.scrapes}"]

    def _at_rest(self) -> list[str]:
        (files, threads), (usual, many) = self.record.at_rest, self.record.at_first
        problems = []
        if not threads == many == self.clean.at_first[1]:
            problems.append(f"{threads} threads at rest, {many} at first")
        more, less = Counter(files) - Counter(usual), Counter(usual) - Counter(files)
        if self.fault and self.fault.kind == "openat":  # the reserve descriptor, had or lost late
            del more["/dev/null"], less["/dev/null"]
        if more or less:
            problems.append(f"files at rest: {dict(more)} more, {dict(less)} less")
        return problems

    def _counters(self) -> list[str]:
        """As they were at rest, before the stop."""
        metrics, problems = self.record.metrics, []
        assert metrics
        if metrics("echod_buffered_bytes"):
            problems.append("bytes are still buffered")
        for port in self.record.ports:
            opened = metrics("echod_connections_opened_total", port=port)
            closed = metrics("echod_connections_closed_total", port=port)
            timed = metrics("echod_connection_duration_seconds_count", port=port)
            if not opened == closed == timed:
                problems.append(f"{port}: opened {opened}, closed {closed}, durations {timed}")
            problems += self._reasons(port)
        return problems

    def _reasons(self, port: int) -> list[str]:
        """Of all closes and rejections: those of the script, but for the damaged one."""
        metrics = self.record.metrics
        assert metrics
        counted = {
            dict(labels)["reason"]: int(value)
            for (name, labels), value in metrics.samples.items()
            if name == "echod_connections_closed_total" and dict(labels)["port"] == str(port)
        }
        counted["rejected"] = int(metrics("echod_connections_rejected_total", port=port))
        wanted = self.reasons[port] - Counter(drain=99)
        if Counter({reason: count for reason, count in counted.items() if count}) == wanted:
            return []
        more, less = Counter(counted) - wanted, wanted - Counter(counted)
        text = f"{port}: reasons {dict(more)} in the place of {dict(less)}"
        if more.total() > 1 or less.total() != 1:
            return [text]
        if more and not right_reasons(self.fault) >= set(more):
            return [f"{text}: not right"]
        return [] if more or self._accounted(port) else [f"{text}: not counted"]

    def _accounted(self, port: int) -> bool:
        """Whether a connection that was never open was counted as an accept that failed."""
        assert self.record.metrics
        return self.record.metrics("echod_accept_errors_total", port=port) > 0

    def _warnings(self) -> list[str]:
        """Events above info that the script does not bring about."""
        return [
            event["event"]
            for event in self.record.events
            if event["level"] not in ("info", "debug")
            and event["event"] not in (OF_THE_SCRIPT, *RECOVERIES)
        ]

    def _log(self) -> list[str]:
        problems = []
        if "Traceback" in "".join(self.record.log):
            problems.append("a traceback in the log")
        if len(self._warnings()) > 1:
            problems.append(f"several events: {self._warnings()}")
        torn = [line for line in self.record.log if line and not _is_event(line)]
        if torn and not (self.fault and self.fault.kind == "write, others"):
            problems.append(f"no event: {torn}")
        if self._lost_events():
            return problems
        names = [event["event"] for event in self.record.events]
        return [
            *problems,
            *(
                f"{names.count(name)} times {name}"
                for name in ("starting", "ready", "draining", "stopped")
                if names.count(name) != 1
            ),
            *self._closes(),
        ]

    def _lost_events(self) -> bool:
        return self.fault is not None and self.fault.kind == "write, others"

    def _closes(self) -> list[str]:
        """Every close is in the log, but unused ones."""
        told = sum(
            event.get("count", 1)
            for event in self.record.events
            if event["event"] in ("connection closed", "more connections closed")
        )
        stopped = [one for one in self.record.events if one["event"] == "stopped"]
        if not (stopped and self.record.metrics):
            return []
        closed = sum(total["closed"] for total in stopped[0]["totals"])
        unused = self.record.metrics("echod_connections_closed_total", reason="unused")
        # A damaged one may have no event of its own as it was unused, or two.
        if abs(closed - unused - told) > bool(self.damaged or self._warnings()):
            return [f"{told} closes in the log of {closed}, {unused:.0f} unused"]
        return []

    def _totals(self) -> list[str]:
        """Those of the end are the clients'."""
        stopped = [one for one in self.record.events if one["event"] == "stopped"]
        if not stopped:
            return [] if self._lost_events() else ["no totals"]
        problems = []
        for total in stopped[0]["totals"]:
            talks = [talk for talk in self.record.talks if talk.port == total["port"]]
            least = [talk for talk in talks if not talk.damaged and talk.reason != "rejected"]
            if total["opened"] != total["closed"]:
                problems.append(f"at the end {total}")
            if stopped[0]["cut"]:
                problems.append(f"cut: {stopped[0]['cut']}")
            for name, what in TOTALS.items():
                low = sum(_amount(talk, what) for talk in least)
                high = low + sum(
                    len(talk.said) + len(talk.wanted) for talk in talks if talk.damaged
                )
                if not low <= total[name] <= high:
                    problems.append(f"{total['port']}: {name} {total[name]}, not {low} to {high}")
        return problems


def _amount(talk: Talk, what: str) -> int:
    if what == "lines":
        return talk.wanted.count(b"\n")
    return len(getattr(talk, what))


def _is_event(line: str) -> bool:
    try:
        return "event" in json.loads(line)
    except json.JSONDecodeError:
        return False
