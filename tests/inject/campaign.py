"""Many lives, each with another fault; and the table of what came of them."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inject.faults import Fault
from inject.injector import Control
from inject.killed import Replaced
from inject.life import Life, Record
from inject.stops import judge_stop
from inject.verdict import Verdict, judge

TOGETHER = 2
"""Lives at a time."""
TRIES = 3
"""Of a fault whose call is not made: its number depends on how threads take turns."""
NOT_MET = "not met"
OUTCOMES = ("refused", "unharmed", "event", "connection", "scrape",
            "before ready", "drained", "replaced", "hang", "script")  # fmt: skip


def say(text: str) -> None:
    """At once, though standard output may be a file."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@dataclass
class Result:
    """Of one fault."""

    fault: Fault
    verdict: Verdict
    log: str = ""


@dataclass
class Table:
    """Results by call and error."""

    results: list[Result] = field(default_factory=list)

    @property
    def met(self) -> list[Result]:
        return [one for one in self.results if one.verdict.outcome != NOT_MET]

    @property
    def broken(self) -> list[Result]:
        return [one for one in self.met if one.verdict.problems]

    def lines(self) -> list[str]:
        """In Markdown."""
        seen = {one.verdict.outcome for one in self.met}
        outcomes = [one for one in OUTCOMES if one in seen]
        lines = ["| call | error | runs | " + " | ".join(outcomes) + " |"]
        lines.append("| --- " * (3 + len(outcomes)) + "|")
        counts: dict[tuple[str, str], Counter[str]] = {}
        for one in self.met:
            counts.setdefault(one.fault[::2], Counter())[one.verdict.outcome] += 1
        for (kind, error), found in sorted(counts.items()):
            cells = [str(found[outcome] or "") for outcome in outcomes]
            lines.append(f"| {kind} | {error} | {found.total()} | " + " | ".join(cells) + " |")
        return lines


class Script(Protocol):
    """What one run of a program is, and what it has to be. A record says whether it hangs."""

    def live(self, directory: Path, control: Control, fault: Fault | None) -> Any:
        """Runs it once, and gives the record of it."""

    def judge(self, record: Any, clean: Any, fault: Fault | None) -> Verdict:
        """The verdict on a record; ``clean`` is that of a run without a fault."""


class Daemon:
    """The life of the daemon. ``stops``: a signal comes, which may stop it."""

    def __init__(self, *, inherited: bool = False, stops: bool = False) -> None:
        self._inherited = inherited
        self._stops = stops

    def live(self, directory: Path, control: Control, _fault: Fault | None) -> Record:
        return Life(directory, control, inherited=self._inherited, stops=self._stops).live()

    def judge(self, record: Record, clean: Record, fault: Fault | None) -> Verdict:
        if self._stops:
            return judge_stop(record)
        return judge(record, clean, fault if fault and fault.fails else None)


class Campaign:
    """Runs faults in runs of a script, two at a time."""

    def __init__(
        self, library: Path, script: Script | None = None, *, together: int = TOGETHER
    ) -> None:
        self._library = library
        self._together = together
        self._script = script or Daemon()
        self.clean, self.counts, _ = self._live(None)
        verdict = self._script.judge(self.clean, self.clean, None)
        assert not verdict.problems, (verdict, self.clean)
        assert verdict.outcome in ("unharmed", "drained"), (verdict, self.clean)

    def _live(self, fault: Fault | None) -> tuple[Any, Counter[str], int]:
        directory = Path(tempfile.mkdtemp(prefix="inject-"))
        control = Control(self._library, directory / "control")
        try:
            if fault:
                fault.tell(control)
            record = self._script.live(directory, control, fault)
            return record, control.counts, control["done"]
        finally:
            control.close()
            shutil.rmtree(directory)

    def run(self, fault: Fault) -> Result:
        for _ in range(TRIES):
            try:
                record, _, done = self._live(fault)
            except Exception:  # noqa: BLE001  # in a thread: to be told with its fault
                return Result(fault, Verdict("script", [traceback.format_exc()]))
            if done or record.hang:
                verdict = self._script.judge(record, self.clean, fault)
                log = "\n".join(record.log) if verdict.problems else ""
                return Result(fault, verdict, log)
        return Result(fault, Verdict(NOT_MET, []))

    def run_all(
        self,
        faults: Sequence[Fault],
        said: Callable[[str], object] = say,
        minutes: float = 60.0,
    ) -> Table:
        """All of them, or as many as there is time for."""
        return run_each(self.run, faults, self._together, said, minutes)


def run_each(
    run: Callable[[Fault], Result],
    faults: Sequence[Fault],
    together: int = TOGETHER,
    said: Callable[[str], object] = say,
    minutes: float = 60.0,
) -> Table:
    """Says at once what is wrong, and now and then how far it is."""
    table, began = Table(), time.monotonic()

    def run_in_time(fault: Fault) -> Result | None:
        return None if time.monotonic() - began > minutes * 60 else run(fault)

    with ThreadPoolExecutor(together) as pool:
        for number, result in enumerate(pool.map(run_in_time, faults), 1):
            if result is None:
                break
            table.results.append(result)
            if result.verdict.problems:
                said(f"{result.fault}: {result.verdict}")
            if number % 100 == 0:
                said(f"{number} of {len(faults)} in {time.monotonic() - began:.0f} s")
    return table


def killing(library: Path) -> Callable[[Fault], Result]:
    """What runs a life that is killed at a call, with another one after it."""

    def run(fault: Fault) -> Result:
        directory = Path(tempfile.mkdtemp(prefix="inject-"))
        try:
            return Result(fault, Replaced(directory, library).live(fault.number))
        except Exception:  # noqa: BLE001  # in a thread: to be told with its fault
            return Result(fault, Verdict("script", [traceback.format_exc()]))
        finally:
            shutil.rmtree(directory)

    return run
