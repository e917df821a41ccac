"""A watch of a split: its start, scrapes, another expectation in its file, and a stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from support import Metrics, get
from support.peers import serving

from inject.commands import Command, Run, port_of, tried
from inject.faults import Fault
from inject.probes import KINDS, OF_A_FILE, Split
from inject.process import Hang, Process, Refused, wait_for
from inject.verdict import Verdict

MORE = 40
"""Connections after which it is sure that it goes on."""
UNTIL_FOUND = 150
"""Connections that may fail in the second after a failed look-up of the name."""
MOST_FAILED = 3
"""Scrapes that may fail: then it does not answer any more."""
EVENTS = ("starting", "metrics on", "ready", "expectation changed", "stopped")
"""Of each run, once each."""
OF_THE_SCRIPT = ("expectation changed", "expectation valid again")
"""Warnings that are no fault, and the end of one."""


class Watch(Command):
    """The split changes with what is expected of it: nothing raises an alarm."""

    name = "probe, --watch"
    refusals = (3,)
    most = 8

    def words(self, directory: Path, held: ExitStack, run: Run) -> Sequence[str]:
        run.facts["split"] = split = Split()
        run.facts["file"] = file = directory / "expected"
        _expect(file, "one=80,two=20")
        port = held.enter_context(serving(split))
        words = ["probe", f"127.0.0.1:{port}", "--watch", "--expect-file", str(file)]
        return [*words, "--rate", "100", "--concurrency", "4", "--metrics-port", "0"]

    def act(self, process: Process, run: Run) -> None:
        pages = _Pages(process, run)
        pages.until(lambda metrics: _connections(metrics) > 0)  # then all its threads run
        at_first = process.threads(), _files(process)
        pages.get("/livez")
        pages.get("/nothing", 404)
        pages.until(lambda metrics: _connections(metrics) > MORE)
        _expect(run.facts["file"], "one=60,two=40")
        pages.until(lambda metrics: _expected(metrics) == 0.4)
        split: Split = run.facts["split"]
        split.of_two = 2
        before = split.answered.total()
        pages.until(lambda metrics: _connections(metrics) > before + MORE)
        if (at_last := (process.threads(), _files(process))) != at_first:
            run.failed.append(f"threads and files {at_last}, at first {at_first}")
        process.terminate()

    def judge(self, run: Run, clean: Run, fault: Fault | None) -> Verdict:
        if run.refused((2,)) and fault and fault.kind in OF_A_FILE:
            return Verdict("refused", [])
        return super().judge(run, clean, fault)

    def lived(self, run: Run, _clean: Run, fault: Fault | None) -> Verdict:
        problems = [] if run.status == 0 else ["not stopped"]
        names = [event["event"] for event in run.events]
        told = [
            event["event"]
            for event in run.events
            if event["level"] != "info" and event["event"] not in OF_THE_SCRIPT
        ]
        lost = fault is not None and fault.kind == "write, others"
        problems += [
            f"{name}: {count} times"
            for name in EVENTS
            if (count := sum(one.startswith(name) for one in names)) != 1
            and not (lost and count == 0)
        ]
        if len(told) > bool(fault) or "alarm" in told:
            problems.append(f"events: {told}")
        stopped: dict[str, Any] = next(
            (one for one in run.events if one["event"] == "stopped"), {"failures": {}}
        )
        failures = stopped["failures"]
        right = {"this host", *KINDS.get(fault.error, {"unreachable"})} if fault else set()
        most = 1
        if fault and fault.kind == "getaddrinfo":
            right, most = {"this host", "name not found"}, UNTIL_FOUND
        if sum(failures.values()) > most or not set(failures) <= right:
            problems.append(f"failures: {failures}")
        if len(run.failed) + bool(failures) > bool(fault):
            problems.append(f"several failed: {run.failed} {failures}")
        outcome = "connection" if failures else "scrape" if run.failed else "event"
        return Verdict(outcome if failures or run.failed or told else "unharmed", problems)


class _Pages:
    """What its metrics port answers."""

    def __init__(self, process: Process, run: Run) -> None:
        self._process = process
        self._run = run
        self._port = port_of(process)

    def get(self, path: str, status: int = 200) -> bytes:
        """A page; nothing if there is none, which is noted."""
        found = tried(self._run, path, lambda: get(self._port, path))
        if found and found[0] != status:
            self._run.failed.append(f"{path}: {found[:2]}")
        return found[1] if found else b""

    def until(self, look: Callable[[Metrics], bool]) -> None:
        """Waits for what the metrics have to say."""

        def looked() -> bool:
            if self._process.process.poll() is not None:
                raise Refused
            body = self.get("/metrics")
            if len(self._run.failed) > MOST_FAILED:
                with suppress(Hang):  # it may be about to end
                    wait_for(lambda: self._process.process.poll() is not None, "the end", 5.0)
                    raise Refused
                raise Hang(f"scrapes fail again and again: {self._run.failed}")
            return bool(body) and look(Metrics(body.decode()))

        wait_for(looked, "what the metrics must say")


def _expect(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def _files(process: Process) -> list[str]:
    return [one for one in process.descriptors() if not one.startswith("socket:")]


def _connections(metrics: Metrics) -> float:
    return metrics("echod_probe_connections_total")


def _expected(metrics: Metrics) -> float:
    return round(metrics("echod_probe_expected_share", version="two"), 6)


WATCHES = (Watch(),)
